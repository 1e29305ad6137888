#include "emulated.h"

#include <mutex>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define IS_ASAN 1
#else
#define IS_ASAN                           0
#define ASAN_POISON_MEMORY_REGION(p, n)   ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

/*
 * One launch at a time; its blocks one after the other; a block's threads as fibers that switch where they
 * wait. The host's thread that launches is the fiber which runs when all have ended.
 */

enum { MOST_THREADS = 1024, WARP = 32, STACK_BYTES = 256 << 10 };
enum { SHARED_BYTES = 228 << 10, GAP_BYTES = 64, SHARED_AT = 1024 /* so that no address is 0 */ };

/* cp.async of one thread: `group` counts from its first. */
struct copy {
    uint32_t to;
    const void *from;
    size_t n_bytes;
    int group;
};

struct fiber {
    void *at; /* its stack, where it was left */
    struct emulated_thread thread;
    std::vector<copy> copies;
    int n_groups;
    void *fake_stack;
};

struct warp {
    unsigned there, ready, waiting; /* lanes that have not ended; that can go on; that wait for others */
    emulated_operation operation[WARP];
    const char *name[WARP];
    unsigned mask[WARP];
    void *args[WARP];
};

struct variable {
    const void *site;
    size_t at, bytes;
};

static struct {
    std::mutex mutex;
    fiber *fibers;
    warp warps[MOST_THREADS / WARP];
    char *stacks;
    int n_threads, n_warps, n_there, n_at_barrier, n_ready;
    const char *kernel;
    const std::function<void()> *thread;
    void *host_at, *host_fake_stack;
    const void *host_stack;
    size_t host_stack_bytes;
    char *shared;
    size_t shared_end;
    std::vector<variable> variables;
    unsigned char garbage;
    uint64_t seed;
} card;

struct emulated_thread *emulated_now;
struct emulated_block emulated_block;

void emulated_fault(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "emulated card: ");
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "; kernel %s, block (%u, %u, %u)", card.kernel ? card.kernel : "none",
            emulated_block.index.x, emulated_block.index.y, emulated_block.index.z);
    if (emulated_now) fprintf(stderr, ", thread %d", emulated_now->number);
    fprintf(stderr, ", seed %llu\n", (unsigned long long)card.seed);
    abort();
}

/* xorshift; 0 stays 0. */
static uint64_t draw()
{
    card.seed ^= card.seed << 13;
    card.seed ^= card.seed >> 7;
    card.seed ^= card.seed << 17;
    return card.seed >> 20;
}

/* ---- switching ---- */

extern "C" void emulated_switch(void **from, void *to);
asm(R"(
    .text
    .globl emulated_switch
    .type emulated_switch, @function
emulated_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emulated_switch, .-emulated_switch
    .section .note.GNU-stack, "", @progbits
    .text
)");

static fiber *fiber_now()
{
    return &card.fibers[emulated_now->number];
}

static char *stack_of(int number)
{
    return card.stacks + (size_t)number * STACK_BYTES;
}

static void arrived(void *fake_stack)
{
    (void)fake_stack;
#if IS_ASAN
    const void *bottom;
    size_t bytes;
    __sanitizer_finish_switch_fiber(fake_stack, &bottom, &bytes);
    if (!card.host_stack) card.host_stack = bottom, card.host_stack_bytes = bytes;
#endif
}

/* To the fiber, or to the host with -1. fake_stack: NULL when the one that leaves has ended. */
static void go(void **from, void **fake_stack, int number)
{
    void *to = number < 0 ? card.host_at : card.fibers[number].at;
#if IS_ASAN
    if (number < 0)
        __sanitizer_start_switch_fiber(fake_stack, card.host_stack, card.host_stack_bytes);
    else
        __sanitizer_start_switch_fiber(fake_stack, stack_of(number), STACK_BYTES);
#endif
    emulated_now = number < 0 ? NULL : &card.fibers[number].thread;
    emulated_switch(from, to);
    arrived(fake_stack ? *fake_stack : NULL);
}

static int lane_choose(unsigned ready)
{
    unsigned turn = draw() % WARP, turned = ready >> turn | (turn ? ready << (WARP - turn) : 0);
    int bit = draw() & 1 ? 31 - __builtin_clz(turned) : __builtin_ctz(turned);
    return (bit + (int)turn) % WARP;
}

static void deadlock()
{
    for (int w = 0; w < card.n_warps; w++)
        for (int i = 0; i < WARP; i++)
            if (card.warps[w].waiting >> i & 1)
                emulated_fault("thread %d waits in %s for lanes %08x, of which %08x are there", w * WARP + i,
                               card.warps[w].name[i], card.warps[w].mask[i], card.warps[w].waiting);
    emulated_fault("%d of %d threads wait at __syncthreads for ever", card.n_at_barrier, card.n_there);
}

/* Which thread goes on: of this warp while one can, else of any other; -1 when all have ended. */
static int choose(int w)
{
    if (!card.n_there) return -1;
    if (!card.n_ready) deadlock();
    if (!card.warps[w].ready) {
        w = (int)(draw() % (unsigned)card.n_warps);
        while (!card.warps[w].ready) w = (w + 1) % card.n_warps;
    }
    int lane = lane_choose(card.warps[w].ready);
    card.warps[w].ready &= ~(1u << lane);
    card.n_ready--;
    return w * WARP + lane;
}

static void pause_here()
{
    fiber *self = fiber_now();
    int next = choose(self->thread.number / WARP);
    if (next == self->thread.number) return;
    go(&self->at, &self->fake_stack, next);
}

/* ---- barriers ---- */

static void barrier_open()
{
    if (card.n_at_barrier < card.n_there) return;
    card.n_at_barrier = 0;
    for (int w = 0; w < card.n_warps; w++) card.warps[w].ready = card.warps[w].there;
    card.n_ready = card.n_there;
}

void emulated_barrier()
{
    card.n_at_barrier++;
    barrier_open();
    pause_here();
}

void emulated_meet(emulated_operation operation, const char *name, unsigned mask, void *args)
{
    warp *warp = &card.warps[emulated_now->number / WARP];
    int lane = emulated_now->lane;
    if (!(mask >> lane & 1)) emulated_fault("%s with a mask without its own lane", name);
    if (mask & ~warp->there) emulated_fault("%s for lanes %08x that have ended", name, mask & ~warp->there);
    warp->operation[lane] = operation, warp->name[lane] = name;
    warp->mask[lane] = mask, warp->args[lane] = args;
    warp->waiting |= 1u << lane;
    if ((warp->waiting & mask) == mask) {
        for (unsigned left = mask; left; left &= left - 1) {
            int other = __builtin_ctz(left);
            if (warp->operation[other] != operation || warp->mask[other] != mask)
                emulated_fault("lane %d is in %s for lanes %08x, lane %d in %s for lanes %08x", lane, name,
                               mask, other, warp->name[other], warp->mask[other]);
        }
        operation(warp->args, mask);
        warp->waiting &= ~mask;
        warp->ready |= mask;
        card.n_ready += __builtin_popcount(mask);
    }
    pause_here();
}

/* ---- shared memory ---- */

/* A variable after the others, between two gaps. */
static char *variable_add(const void *site, size_t bytes)
{
    size_t at = (card.shared_end + GAP_BYTES + 127) / 128 * 128, end = at + bytes;
    if (end + GAP_BYTES > SHARED_BYTES) emulated_fault("too much shared memory");
    ASAN_UNPOISON_MEMORY_REGION(card.shared + card.shared_end, end + GAP_BYTES - card.shared_end);
    memset(card.shared + card.shared_end, card.garbage, end + GAP_BYTES - card.shared_end);
    ASAN_POISON_MEMORY_REGION(card.shared + card.shared_end, end + GAP_BYTES - card.shared_end);
    ASAN_UNPOISON_MEMORY_REGION(card.shared + at, bytes);
    card.shared_end = end;
    card.variables.push_back({site, at, bytes});
    return card.shared + at;
}

static void shared_begin(size_t dynamic_bytes)
{
    /* NaN, or large numbers: fmaxf() does not see the former, a product with zero not the latter. */
    card.garbage = draw() & 1 ? 0x7b : 0xff;
    card.shared_end = 0;
    card.variables.clear();
    emulated_block.shared = variable_add(NULL, dynamic_bytes);
}

/* Nothing may have been written between the variables. */
static void shared_check()
{
    size_t at = 0;
    ASAN_UNPOISON_MEMORY_REGION(card.shared, card.shared_end + GAP_BYTES);
    card.variables.push_back({NULL, card.shared_end + GAP_BYTES, 0});
    for (const variable &variable : card.variables) {
        for (; at < variable.at; at++)
            if ((unsigned char)card.shared[at] != card.garbage)
                emulated_fault("shared memory was written out of bounds, at byte %zu", at);
        at = variable.at + variable.bytes;
    }
    ASAN_POISON_MEMORY_REGION(card.shared, card.shared_end + GAP_BYTES);
}

void *emulated_shared(const void *site, size_t bytes)
{
    for (const variable &variable : card.variables)
        if (variable.site == site) return card.shared + variable.at;
    return variable_add(site, bytes);
}

uint32_t emulated_shared_address(const void *p)
{
    return (uint32_t)((const char *)p - card.shared) + SHARED_AT;
}

void *emulated_shared_at(uint32_t address, size_t bytes, const char *name)
{
    size_t at = address - SHARED_AT;
    if (address % bytes) emulated_fault("%s at a shared address that is not on %zu bytes", name, bytes);
    for (const variable &variable : card.variables)
        if (at >= variable.at && at + bytes <= variable.at + variable.bytes) return card.shared + at;
    emulated_fault("%s at shared address %u, which is in no variable", name, address);
}

/* ---- cp.async ---- */

static void copy_run(const copy &copy)
{
    char *to = (char *)emulated_shared_at(copy.to, 16, "cp.async");
    if (copy.n_bytes) memcpy(to, copy.from, copy.n_bytes);
    memset(to + copy.n_bytes, 0, 16 - copy.n_bytes);
}

void emulated_copy(uint32_t to, const void *from, size_t n_bytes)
{
    copy copy = {to, from, n_bytes, fiber_now()->n_groups};
    if ((uintptr_t)from % 16) emulated_fault("cp.async from an address that is not on 16 bytes");
    emulated_shared_at(to, 16, "cp.async");
    if (draw() & 1)
        copy_run(copy);
    else
        fiber_now()->copies.push_back(copy);
}

void emulated_copy_commit()
{
    fiber_now()->n_groups++;
}

void emulated_copy_wait(int most)
{
    fiber *self = fiber_now();
    size_t n = 0;
    while (n < self->copies.size() && self->copies[n].group < self->n_groups - most)
        copy_run(self->copies[n++]);
    self->copies.erase(self->copies.begin(), self->copies.begin() + (ptrdiff_t)n);
}

/* ---- launches ---- */

static void fiber_main()
{
    arrived(NULL);
    (*card.thread)();
    fiber *self = fiber_now();
    warp *warp = &card.warps[self->thread.number / WARP];
    warp->there &= ~(1u << self->thread.lane);
    card.n_there--;
    if (card.n_there && card.n_at_barrier) barrier_open();
    void *ignored;
    go(&ignored, NULL, choose(self->thread.number / WARP));
    __builtin_unreachable();
}

static void fiber_prepare(int number, dim3 block)
{
    fiber *fiber = &card.fibers[number];
    unsigned n = (unsigned)number;
    fiber->thread = {{n % block.x, n / block.x % block.y, n / block.x / block.y}, number, number % WARP};
    fiber->copies.clear();
    fiber->n_groups = 0;
    char *top = stack_of(number) + STACK_BYTES;
    ASAN_UNPOISON_MEMORY_REGION(top - 1024, 1024);
    void **at = (void **)top - 1; /* as after a call: 8 bytes off 16 */
    *at = NULL;
    *--at = (void *)fiber_main;
    for (int i = 0; i < 6; i++) *--at = NULL;
    fiber->at = at;
}

static void block_run(dim3 block, size_t shared_bytes)
{
    shared_begin(shared_bytes);
    for (int i = 0; i < card.n_threads; i++) fiber_prepare(i, block);
    for (int w = 0; w < card.n_warps; w++) {
        int n = card.n_threads - w * WARP;
        card.warps[w].there = card.warps[w].ready = n >= WARP ? ~0u : (1u << n) - 1;
        card.warps[w].waiting = 0;
    }
    card.n_there = card.n_ready = card.n_threads;
    card.n_at_barrier = 0;
    go(&card.host_at, &card.host_fake_stack, choose((int)(draw() % (unsigned)card.n_warps)));
    shared_check();
}

static void *pages(size_t bytes)
{
    void *memory =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) emulated_fault("out of memory");
    return memory;
}

static void card_open()
{
    if (card.fibers) return;
    const char *seed = getenv("OCTAVO_EMULATED_SEED");
    card.seed = seed ? strtoull(seed, NULL, 10) * 0x9e3779b97f4a7c15u : 0x9e3779b97f4a7c15u;
    card.fibers = new fiber[MOST_THREADS]();
    card.shared = (char *)pages(SHARED_BYTES);
    card.stacks = (char *)pages((size_t)MOST_THREADS * STACK_BYTES);
    for (int i = 0; i < MOST_THREADS; i++) mprotect(stack_of(i), 4096, PROT_NONE); /* it overflows: a fault */
}

void emulated_launch(const char *name, const void *function, dim3 grid, dim3 block, size_t shared_bytes,
                     const std::function<void()> &thread)
{
    if (!emulated_launch_begins(name, function, grid, block, shared_bytes)) return;
    std::lock_guard<std::mutex> lock(card.mutex);
    card_open();
    card.host_stack = NULL;
    card.kernel = name;
    card.thread = &thread;
    card.n_threads = (int)(block.x * block.y * block.z);
    card.n_warps = (card.n_threads + WARP - 1) / WARP;
    emulated_block.size = block;
    emulated_block.grid = grid;
    emulated_memory_enter();
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                emulated_block.index = {x, y, z};
                block_run(block, shared_bytes);
            }
    emulated_memory_leave();
    card.kernel = NULL;
}
