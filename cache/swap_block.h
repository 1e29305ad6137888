#ifndef CACHE_SWAP_BLOCK_H
#define CACHE_SWAP_BLOCK_H

#include "cache/prefix.h"
#include "cache/swap_file.h"

/*
 * One block on its way to the second store (cache/swap.h) or back: its pieces, each with its place there. At
 * a place stand the bytes of the piece and behind them a checksum over them, the block's key and which piece
 * of it this is. No state, so any thread may do it.
 */
enum { KV_SWAP_PIECES = KV_MAX_PARTS + KV_MAX_SINKS };

struct kv_swap_piece {
    int class, number; /* number: of the part, or KV_MAX_PARTS and that of the sink */
    size_t n_bytes;
    char *memory; /* host memory: what is written, where to read to */
    char *place;  /* in the store */
};

struct kv_swap_block {
    struct kv_hash key;
    int n_pieces;
    struct kv_swap_piece pieces[KV_SWAP_PIECES];
};

struct kv_swap_checksum {
    uint64_t low, high;
};

enum kv_swap_outcome {
    KV_SWAP_DONE,
    KV_SWAP_DAMAGED, /* not what was written */
    KV_SWAP_FAILED,  /* the system refused, errno says why; 0: the file was cut short */
};

/* file NULL: places are host memory, and a piece whose memory is its place is not copied. */
enum kv_swap_outcome kv_swap_block_write(struct kv_swap_file *file, const struct kv_swap_block *block);
enum kv_swap_outcome kv_swap_block_read(const struct kv_swap_file *file, const struct kv_swap_block *block);

#endif
