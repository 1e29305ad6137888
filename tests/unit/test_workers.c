#include "kernels/workers.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

enum { MAX_ITEMS = 1000, MAX_WORKERS = 8 };

struct loop {
    int seen[MAX_ITEMS]; /* plain: only the item's own worker writes it, and the caller reads it afterwards */
    atomic_int by_worker[MAX_WORKERS];
    const int *input;
    long sum;
};

static void body(void *context, int item, int worker)
{
    struct loop *loop = context;
    loop->seen[item] += loop->input[item];
    atomic_fetch_add(&loop->by_worker[worker], 1);
}

static struct workers *create(int n)
{
    struct workers *workers;
    struct err_info info;
    assert_int_equal(workers_create(n, &workers, &info), ERR_OK);
    assert_int_equal(workers_count(workers), n);
    return workers;
}

/* Loops of changing length follow each other closely, and the input of each is what the caller wrote just
   before: no item is lost, run twice, or run on the data of another loop. */
static void test_loops(void **state)
{
    (void)state;
    static struct loop loop;
    static int input[MAX_ITEMS];
    for (int n_workers = 1; n_workers <= MAX_WORKERS; n_workers += n_workers < 4 ? 1 : 4) {
        struct workers *workers = create(n_workers);
        memset(&loop, 0, sizeof loop);
        loop.input = input;
        int expected[MAX_ITEMS] = {0}, total = 0;
        for (int round = 0; round < 2000; round++) {
            int n = round * 37 % (round % 5 ? 12 : MAX_ITEMS);
            for (int i = 0; i < n; i++) {
                input[i] = round + i;
                expected[i] += round + i;
            }
            workers_run(workers, n, body, &loop);
            total += n;
            if (n) assert_int_equal(loop.seen[n - 1], expected[n - 1]);
        }
        assert_memory_equal(loop.seen, expected, sizeof expected);
        for (int w = 0; w < MAX_WORKERS; w++) total -= atomic_load(&loop.by_worker[w]);
        assert_int_equal(total, 0);
        workers_free(workers);
    }
}

/* Sleeping workers wake up: the pauses are longer than they spin. */
static void test_after_pauses(void **state)
{
    (void)state;
    static struct loop loop;
    static int input[MAX_ITEMS];
    struct workers *workers = create(4);
    memset(&loop, 0, sizeof loop);
    loop.input = input;
    for (int i = 0; i < MAX_ITEMS; i++) input[i] = 1;
    for (int round = 1; round <= 40; round++) {
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
        workers_run(workers, MAX_ITEMS, body, &loop);
        for (int i = 0; i < MAX_ITEMS; i++) assert_int_equal(loop.seen[i], round);
    }
    workers_free(workers);
}

static void wait_for_other(void *context, int item, int worker)
{
    (void)item;
    (void)worker;
    atomic_int *arrived = context;
    atomic_fetch_add(arrived, 1);
    while (atomic_load(arrived) < 2) nanosleep(&(struct timespec){.tv_nsec = 10000}, NULL);
}

/* Two items that each wait for the other: only workers that truly run side by side end this. */
static void test_side_by_side(void **state)
{
    (void)state;
    struct workers *workers = create(2);
    for (int round = 0; round < 20; round++) {
        atomic_int arrived = 0;
        workers_run(workers, 2, wait_for_other, &arrived);
        assert_int_equal(atomic_load(&arrived), 2);
    }
    workers_free(workers);
}

static void test_bad_count(void **state)
{
    (void)state;
    struct workers *workers = NULL;
    struct err_info info;
    assert_int_equal(workers_create(0, &workers, &info), ERR_USAGE);
    assert_null(workers);
    workers_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loops),
        cmocka_unit_test(test_after_pauses),
        cmocka_unit_test(test_side_by_side),
        cmocka_unit_test(test_bad_count),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
