#ifndef SUPPORT_MEMORY_BACKEND_H
#define SUPPORT_MEMORY_BACKEND_H

#include "kernels/backend.h"

/* A backend of memory alone, for tests of what keeps blocks and computes nothing: alloc, free and copy. */
extern struct backend memory_backend;

#endif
