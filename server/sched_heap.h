#ifndef SERVER_SCHED_HEAP_H
#define SERVER_SCHED_HEAP_H

#include <stdint.h>

/*
 * A priority queue without memory of its own: a pairing heap, its nodes inside what they order. The least
 * (key, tie) is *root; NULL: empty. Push and the look at the least are O(1), removal O(log n) amortized.
 */
struct sched_heap_node {
    struct sched_heap_node *child, *sibling;
    struct sched_heap_node *previous; /* left sibling, or the parent of the first child; NULL at the root */
    int64_t key;
    uint64_t tie;
};

void sched_heap_push(struct sched_heap_node **root, struct sched_heap_node *node, int64_t key, uint64_t tie);
/* Of any node that is in it. */
void sched_heap_remove(struct sched_heap_node **root, struct sched_heap_node *node);

#endif
