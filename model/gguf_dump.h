#ifndef MODEL_GGUF_DUMP_H
#define MODEL_GGUF_DUMP_H

#include "config/buf.h"
#include "model/gguf.h"

/*
 * All that a GGUF file's header says, for `octavo inspect`: keys with types and values, tensors with types,
 * dimensions (GGUF's order: columns first), bytes and offsets in the file. Of arrays the first max_elements
 * are written.
 */

/* Aligned columns; long strings are cut. Control characters are escaped. */
void gguf_dump_text(const struct gguf *gguf, size_t max_elements, struct buf *out);

/* {"file_bytes", "keys": [{"name", "type", "value"} or, of arrays, {"name", "type": "array", "element_type",
   "length", "value": [first elements]}], "tensors": [{"name", "type", "dims", "bytes", "offset"}]} */
void gguf_dump_json(const struct gguf *gguf, size_t max_elements, struct buf *out);

#endif
