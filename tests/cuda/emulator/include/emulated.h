#ifndef EMULATOR_EMULATED_H
#define EMULATOR_EMULATED_H

/*
 * Threads of a card as fibers of one thread of the host (fibers.cpp). Thread blocks run one after the other.
 * A fiber runs until it comes to a barrier or to an operation of its warp, and waits there for the others;
 * which goes on next is drawn from OCTAVO_EMULATED_SEED (0: always the lowest). So what one thread reads
 * before another has written it, for want of a barrier, is read wrong under most seeds.
 *
 * Shared memory is filled with garbage before each block; the bytes between its variables are checked after
 * it, and under ASan poisoned. What a card would leave undefined ends the program with a message: lanes that
 * meet in different operations, a warp that waits for a lane which has ended, addresses off their alignment.
 */
#include <functional>
#include <stddef.h>
#include <stdint.h>

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

struct uint3 {
    unsigned x, y, z;
};

struct emulated_thread {
    uint3 index; /* threadIdx */
    int number, lane;
};

struct emulated_block {
    uint3 index; /* blockIdx */
    dim3 size, grid;
    char *shared; /* the dynamic part */
};

extern struct emulated_thread *emulated_now;
extern struct emulated_block emulated_block;

/* args[lane]: what each lane of mask brought. */
typedef void (*emulated_operation)(void *const *args, unsigned mask);

/* Waits for the lanes of mask to come here with the same operation; the last one does it for all. */
void emulated_meet(emulated_operation operation, const char *name, unsigned mask, void *args);
/* Waits for all threads of the block that have not ended. */
void emulated_barrier();
/* The block's variable that stands at `site` in the source. */
void *emulated_shared(const void *site, size_t bytes);
/* Where a 32-bit address in shared memory points, for an access of so many bytes aligned to them. */
void *emulated_shared_at(uint32_t at, size_t bytes, const char *name);
uint32_t emulated_shared_address(const void *p);
/* cp.async: n_bytes are copied, the rest of the 16 set to zero, now or as late as at the wait. */
void emulated_copy(uint32_t to, const void *from, size_t n_bytes);
void emulated_copy_commit();
void emulated_copy_wait(int most);

void emulated_launch(const char *name, const void *function, dim3 grid, dim3 block, size_t shared_bytes,
                     const std::function<void()> &thread);
[[noreturn]] void emulated_fault(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* runtime.cpp: is the launch to fail, and may it take so much shared memory? Sets the last error when not. */
bool emulated_launch_begins(const char *name, const void *function, dim3 grid, dim3 block,
                            size_t shared_bytes);

/* runtime.cpp: the card's memory is there for the code between the two. */
void emulated_memory_enter();
void emulated_memory_leave();

#endif
