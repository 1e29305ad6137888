#include "tests/unit/support/cpu_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

struct cpu_fixture cpu_fixture_create(const char *level, int n_threads)
{
    struct cpu_fixture fixture = {0};
    assert_int_equal(workers_create(n_threads, &fixture.workers, NULL), ERR_OK);
    enum err err = backend_cpu_create(fixture.workers, level, &fixture.backend, NULL);
    assert_true(err == ERR_OK || err == ERR_UNSUPPORTED);
    return fixture;
}

void cpu_fixture_free(struct cpu_fixture *fixture)
{
    if (fixture->backend) fixture->backend->destroy(fixture->backend);
    workers_free(fixture->workers);
}

void cpu_fixture_require(const char *level)
{
    struct cpu_fixture fixture = cpu_fixture_create(level, 1);
    bool is_there = fixture.backend != NULL;
    cpu_fixture_free(&fixture);
    if (is_there) return;
    print_message("SKIPPED: this processor lacks %s\n", level);
    skip();
}
