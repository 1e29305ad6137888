#ifndef MODEL_GRAMMAR_INTERNAL_H
#define MODEL_GRAMMAR_INTERNAL_H

#include "model/grammar.h"

#include <pthread.h>
#include <stdatomic.h>

/*
 * What the files grammar_*.c share. The way of a grammar:
 *
 *   grammar_node.c, grammar_text_node.c   the builder's nodes
 *   grammar_words.c                       many literals at one place
 *   grammar_analysis.c                    which nodes become machines of their own
 *   grammar_nfa.c                         a machine as a nondeterministic automaton (Thompson)
 *   grammar_automaton.c                   deterministic, trimmed; grammar_build
 *   grammar_step.c, grammar_state.c       running
 *   grammar_vocabulary.c                  the tokens as tries
 *   grammar_mask.c, grammar_cache.c       masks
 */

/* ---- Nodes ---- */

enum grammar_kind { NODE_LITERAL, NODE_BYTE, NODE_SEQUENCE, NODE_CHOICE, NODE_REPEAT, NODE_TABLE, NODE_RULE };

struct grammar_node {
    enum grammar_kind kind;
    uint32_t first;   /* literal: into bytes; byte: of sets; sequence, choice: into links; repeat: the node;
                         table: of tables; rule: the meaning, or GRAMMAR_NONE */
    uint32_t n;       /* literal, sequence, choice */
    int64_t min, max; /* repeat; rule: min is its name in bytes */
};
#define GRAMMAR_NONE UINT32_MAX

/* An automaton given as it is; it starts in its state 0. */
struct grammar_table {
    uint32_t n_states, first_edge, n_edges, first_final; /* finals: a byte for each state in bytes */
};
struct grammar_table_edge {
    uint32_t from, to, set;
};

struct grammar_set {
    uint64_t bits[4];
};

struct grammar_pool {
    void *items;
    size_t n, capacity;
};

/* Limits of one compilation. */
struct grammar_watch {
    const struct grammar_limits *limits;
    int64_t start_us;
    unsigned n_checks;
    struct err_info *info;
};
void grammar_watch_start(struct grammar_watch *watch, const struct grammar_limits *limits,
                         struct err_info *info);
/* ERR_LIMIT when the time is spent; looks at the clock now and then. */
enum err grammar_watch_check(struct grammar_watch *watch);
/* The same, at once. */
enum err grammar_watch_look(const struct grammar_watch *watch, struct err_info *info);

struct grammar_builder {
    struct grammar_limits limits;
    struct grammar_watch watch; /* from the builder's creation on; tells fault */
    struct err_info fault;      /* code ERR_OK: none */
    struct grammar_pool nodes, links, bytes, sets, tables, table_edges;
    uint32_t *slots; /* of equal nodes; open addressing, 0: empty, else node + 1 */
    size_t n_slots;
};

static inline struct grammar_node *grammar_nodes(const struct grammar_builder *builder)
{
    return builder->nodes.items;
}
static inline const uint32_t *grammar_links(const struct grammar_builder *builder)
{
    return builder->links.items;
}
static inline const struct grammar_set *grammar_sets(const struct grammar_builder *builder)
{
    return builder->sets.items;
}
static inline const uint8_t *grammar_text(const struct grammar_builder *builder)
{
    return builder->bytes.items;
}

/* Room for n more items; false when memory is short. */
bool grammar_pool_reserve(struct grammar_pool *pool, size_t n, size_t item_bytes);

/* Remembers the first fault; returns -1. */
int grammar_builder_fail(struct grammar_builder *builder, enum err code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The index of a set; -1 when it fails. */
int grammar_set_add(struct grammar_builder *builder, const struct grammar_set *set);
int grammar_table_node(struct grammar_builder *builder, const struct grammar_table_edge *edges,
                       size_t n_edges, const uint8_t *finals, size_t n_states);

/* grammar_words.c: a choice of literals as a table; n at least 1. */
int grammar_words_node(struct grammar_builder *builder, const int *nodes, int n);

static inline bool grammar_set_has(const struct grammar_set *set, unsigned bit)
{
    return set->bits[bit >> 6] >> (bit & 63) & 1;
}
static inline void grammar_set_put(struct grammar_set *set, unsigned bit)
{
    set->bits[bit >> 6] |= (uint64_t)1 << (bit & 63);
}

/* ---- Compiling ---- */

/* What is known of each node. */
struct grammar_facts {
    bool nullable;   /* derives the empty text */
    bool productive; /* derives a text */
    bool is_machine; /* stands for a call */
    bool is_open;    /* the search is inside it */
    bool is_seen;
    uint32_t n_uses;
    uint32_t size;   /* states that it becomes where it stands, about */
    int32_t machine; /* its number, -1: none yet */
};
enum err grammar_analyse(const struct grammar_builder *builder, uint32_t root, struct grammar_facts *facts,
                         struct grammar_watch *watch);
/* A repeat that counts while it runs instead of being written out. */
bool grammar_is_counted(const struct grammar_node *node, const struct grammar_facts *facts);

/* A nondeterministic automaton of one machine. Edges of a state are a list. */
enum { NFA_EMPTY, NFA_SET, NFA_CALL };
struct grammar_nfa_edge {
    uint32_t type, what, target, next;
};
struct grammar_nfa {
    const struct grammar_builder *builder;
    struct grammar_facts *facts;
    struct grammar_watch *watch;
    struct grammar_pool states; /* uint32_t: first edge */
    struct grammar_pool edges;
    struct grammar_pool machines; /* uint32_t: the nodes that are machines, in the order of their numbers */
    const uint32_t *byte_sets;    /* [256] the set of one byte */
    uint32_t start, accept;
};
/* Machine number `machine` into states and edges; machines that it calls get numbers. */
enum err grammar_nfa_make(struct grammar_nfa *nfa, uint32_t machine);

/* ---- The automaton ---- */

enum {
    STATE_FINAL = 1, /* its machine may return here; of a machine that counts: one more is complete */
    STATE_HEAD = 2,  /* of a machine that counts: between two */
    STATE_OUT = 4,   /* something can follow within the machine */
};

struct grammar_call {
    uint32_t machine, back; /* the state to return to */
};

struct grammar_place { /* a state of a machine */
    uint32_t machine;
    uint32_t first_call;
    uint16_t n_calls;
    uint8_t flags;
    uint32_t bytes;   /* classes of the vocabulary with bytes that it reads itself */
    uint32_t loops;   /* classes of the vocabulary whose characters lead back here, and only here */
    uint32_t enters;  /* the place where all plain characters lead, and that they do not leave, or itself */
    uint32_t touches; /* classes of the vocabulary with bytes that can follow */
    /* As many plain characters can follow one after the other, whichever they are, each leading to one place
       and to nothing else, and none after them; GRAMMAR_NONE: any number; 0: it is not so. Which classes can
       follow on the way, and whether the machine may return on it. */
    uint32_t reach, reach_touches;
    bool reach_returns;
    struct grammar_set alive; /* byte classes that can follow */
};

struct grammar_machine {
    uint32_t start;
    bool counted;
    uint32_t min, max; /* counted; max GRAMMAR_NONE: no end */
};

struct grammar_cache;

struct grammar {
    atomic_size_t n_references;
    const struct grammar_vocabulary *vocabulary;
    uint8_t byte_class[256];
    uint32_t n_classes;
    uint32_t n_places, n_machines, n_calls;
    struct grammar_place *places;
    struct grammar_machine *machines;
    struct grammar_call *calls;
    int32_t *next;       /* [n_places][n_classes], -1: none */
    uint32_t max_frames; /* of a state's stack */
    size_t fixed_bytes;
    struct grammar_cache *cache;
};

static inline int32_t grammar_next(const struct grammar *grammar, uint32_t place, unsigned class)
{
    return grammar->next[(size_t)place * grammar->n_classes + class];
}

/* ---- Running ---- */

enum { GRAMMAR_MAX_CONFIGS = 256, GRAMMAR_MAX_FRAMES = 4096, GRAMMAR_EDGES_PER_FRAME = 2 };

/* One of the stacks: the place on top, what it counted, and the frame below. */
struct grammar_config {
    uint32_t place, frame, count;
};
/* Where a frame returns to: a list. */
struct grammar_edge {
    uint32_t place, frame, count, next;
};
struct grammar_frame {
    uint32_t machine, first; /* edge, or GRAMMAR_NONE */
};

/* Stacks that share their lower parts (a graph-structured stack). Frame 0 is the bottom. */
struct grammar_stack {
    struct grammar_frame *frames;
    struct grammar_edge *edges;
    uint32_t n_frames, n_edges;
    uint32_t max_frames, max_edges;
    /* For masks: how deep a return looked. depths: [n_known], NULL: not asked for. */
    const uint8_t *depths;
    uint32_t n_known;
    uint8_t deepest;
    bool limited; /* a limit was met */
};

/* All configurations by one byte of the class: out has room for GRAMMAR_MAX_CONFIGS. Returns how many; 0:
   none can; -1: a limit (stack->limited). The stack may have grown; frames that were there are as before, so
   that setting n_frames and n_edges back undoes it. */
int grammar_step(const struct grammar *grammar, struct grammar_stack *stack, const struct grammar_config *in,
                 int n, unsigned class, struct grammar_config *out);

static inline bool grammar_config_is_final(const struct grammar *grammar, const struct grammar_config *config)
{
    const struct grammar_place *place = &grammar->places[config->place];
    const struct grammar_machine *machine = &grammar->machines[place->machine];
    if (machine->counted) return place->flags & STATE_HEAD && config->count >= machine->min;
    return place->flags & STATE_FINAL;
}
/* It can read a byte. */
static inline bool grammar_config_is_open(const struct grammar *grammar, const struct grammar_config *config)
{
    const struct grammar_place *place = &grammar->places[config->place];
    if (!(place->flags & STATE_OUT)) return false;
    const struct grammar_machine *machine = &grammar->machines[place->machine];
    return !machine->counted || !(place->flags & STATE_HEAD) || config->count != machine->max;
}

struct grammar_state {
    const struct grammar *grammar;
    struct grammar_stack stack;
    uint32_t n_configs;
    struct grammar_config *configs; /* [GRAMMAR_MAX_CONFIGS] */
    /* Scratch of grammar_accept. */
    struct grammar_config *spare[2];
    struct grammar_frame *spare_frames;
    struct grammar_edge *spare_edges;
    uint16_t *map;  /* [max_frames] */
    uint16_t *seen; /* a frame: for which new frame its returns were looked through */
    uint16_t *todo;
};

/* ---- The vocabulary ---- */

struct grammar_trie_node {
    uint32_t next;    /* the node after its subtree */
    uint32_t first;   /* its first token in `order`; those of the subtree follow */
    uint32_t classes; /* of the bytes below it */
    uint8_t byte;
    uint8_t height; /* bytes below it at most; 255: or more */
    uint8_t n;      /* tokens that end here */
    bool is_whole;  /* it ends a character, and so do all tokens below */
};
struct grammar_trie { /* nodes[0] is the root, nodes[n] a sentinel */
    struct grammar_trie_node *nodes;
    int32_t *order;
    uint32_t n, n_order;
    uint32_t class; /* the first in its tokens that is not plain; the plain trie: 0 */
};

enum { GRAMMAR_SLICES = 32, GRAMMAR_OTHERS = 6 };

struct grammar_vocabulary {
    const struct tokenizer *tokenizer;
    int32_t size;
    size_t n_words;
    uint32_t longest;          /* bytes of a token, the control byte included */
    struct grammar_trie plain; /* tokens of whole characters that JSON strings write as they are */
    struct grammar_trie others[GRAMMAR_OTHERS];
    uint32_t *slices; /* [GRAMMAR_SLICES + 1][n_words] plain tokens of at most s + 1 characters; the last: all
                       */
    uint32_t longest_plain; /* characters */
    /* Plain tokens of more than GRAMMAR_SLICES characters, the shortest first. */
    struct grammar_long_token {
        uint32_t n; /* characters */
        int32_t token;
    } * long_tokens;
    size_t n_long;
    int32_t *ends; /* [n_ends] end tokens */
    int32_t n_ends;
};

/* The classes of bytes that trie nodes speak of. */
uint32_t grammar_vocabulary_class(unsigned byte); /* one bit */
extern const uint32_t grammar_vocabulary_wide;    /* bytes that are not ASCII */
extern const uint32_t grammar_vocabulary_plain;   /* the classes of plain tokens */

/* What a token stands for in the grammar; NULL: nothing. is_control: GRAMMAR_CONTROL goes before. */
const char *grammar_vocabulary_bytes(const struct grammar_vocabulary *vocabulary, int32_t token,
                                     size_t *length, bool *is_control);

/* ---- The cache of masks ---- */

enum { GRAMMAR_KEY_WORDS = 192, GRAMMAR_MAX_DEPTH_KEY = 16 };

struct grammar_key {
    uint32_t n;
    uint64_t hash;
    uint32_t words[GRAMMAR_KEY_WORDS];
};

/* max_bytes: of entries; 0 entries when that is too little. NULL when memory is short. */
struct grammar_cache *grammar_cache_create(size_t n_words, size_t max_bytes);
void grammar_cache_free(struct grammar_cache *cache);
size_t grammar_cache_bytes(struct grammar_cache *cache);
/* The mask of the key into allowed and how many bits it has; -1: not there. *frames, *edges: how much of a
   stack its tokens take. */
int grammar_cache_get(struct grammar_cache *cache, const struct grammar_key *key, uint32_t *allowed,
                      uint32_t *frames, uint32_t *edges);
void grammar_cache_put(struct grammar_cache *cache, const struct grammar_key *key, const uint32_t *allowed,
                       int n, uint32_t frames, uint32_t edges);
/* How deep masks of configurations with this hash have looked: bit d for d frames, at most
   GRAMMAR_MAX_DEPTH_KEY. */
uint32_t grammar_cache_depths(struct grammar_cache *cache, uint64_t hash);
void grammar_cache_note_depth(struct grammar_cache *cache, uint64_t hash, uint32_t depth);

#endif
