#include "server/sched_heap.h"

#include <stdbool.h>
#include <stddef.h>

static bool before(const struct sched_heap_node *a, const struct sched_heap_node *b)
{
    return a->key != b->key ? a->key < b->key : a->tie < b->tie;
}

/* Of two roots without siblings. */
static struct sched_heap_node *meld(struct sched_heap_node *a, struct sched_heap_node *b)
{
    if (a == NULL) return b;
    if (b == NULL) return a;
    if (before(b, a)) {
        struct sched_heap_node *swap = a;
        a = b;
        b = swap;
    }
    b->sibling = a->child;
    if (b->sibling != NULL) b->sibling->previous = b;
    b->previous = a;
    a->child = b;
    return a;
}

static struct sched_heap_node *cut_first(struct sched_heap_node **list)
{
    struct sched_heap_node *node = *list;
    if (node == NULL) return NULL;
    *list = node->sibling;
    node->sibling = node->previous = NULL;
    return node;
}

/* One heap of a list of siblings: in pairs from the left, then all pairs from the right. */
static struct sched_heap_node *meld_siblings(struct sched_heap_node *list)
{
    struct sched_heap_node *pairs = NULL, *all = NULL;
    while (list != NULL) {
        struct sched_heap_node *a = cut_first(&list), *b = cut_first(&list);
        struct sched_heap_node *pair = meld(a, b);
        pair->sibling = pairs;
        pairs = pair;
    }
    while (pairs != NULL) all = meld(all, cut_first(&pairs));
    return all;
}

void sched_heap_push(struct sched_heap_node **root, struct sched_heap_node *node, int64_t key, uint64_t tie)
{
    *node = (struct sched_heap_node){.key = key, .tie = tie};
    *root = meld(*root, node);
}

void sched_heap_remove(struct sched_heap_node **root, struct sched_heap_node *node)
{
    if (node == *root) {
        *root = meld_siblings(node->child);
    } else {
        if (node->previous->child == node)
            node->previous->child = node->sibling;
        else
            node->previous->sibling = node->sibling;
        if (node->sibling != NULL) node->sibling->previous = node->previous;
        *root = meld(*root, meld_siblings(node->child));
    }
    node->child = node->sibling = node->previous = NULL;
}
