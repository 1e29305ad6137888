#ifndef SERVER_ENGINE_SNAPSHOT_H
#define SERVER_ENGINE_SNAPSHOT_H

#include "config/err.h"
#include "server/engine.h"

/*
 * What the engine shows of its sequences. After each step the engine thread writes a snapshot and exchanges
 * it, in one atomic operation, with the newest one that nobody has taken; readers exchange theirs with that.
 * Three buffers go around, so that the engine never waits, whatever readers do; they wait for each other.
 */
struct engine_snapshot;

/* Room for `parallel` running sequences and some that wait. ERR_MEMORY. */
enum err engine_snapshot_create(int parallel, struct engine_snapshot **out, struct err_info *info);
void engine_snapshot_free(struct engine_snapshot *snapshot);

/* The engine thread: as of now. */
void engine_snapshot_publish(struct engine_snapshot *snapshot, const struct engine *engine);

/* Any thread: as engine_sequences. */
enum err engine_snapshot_read(struct engine_snapshot *snapshot, struct engine_view *out,
                              struct err_info *info);

#endif
