#include "server/bench_process.h"

#include "config/clock.h"

#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ; /* POSIX; <unistd.h> declares it for GNU sources only */

enum { POLL_US = 20000, STOP_S = 10 };

enum err bench_port_find(int *port, struct err_info *info)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return err_set(info, ERR_IO, "socket: %s", strerror(errno));
    enum err err = ERR_OK;
    if (bind(fd, (struct sockaddr *)&address, size) != 0 ||
        getsockname(fd, (struct sockaddr *)&address, &size) != 0)
        err = err_set(info, ERR_IO, "no free port: %s", strerror(errno));
    else
        *port = ntohs(address.sin_port);
    close(fd);
    return err;
}

/* The server shall run with what the arguments say: a config file or api key of ours is not for it. */
static void environment_clean(void)
{
    char name[128];
    for (char **variable = environ; *variable;) {
        size_t length = strcspn(*variable, "=");
        bool ours = strncmp(*variable, "OCTAVO_", 7) == 0 && length < sizeof name;
        if (ours) {
            memcpy(name, *variable, length);
            name[length] = '\0';
            unsetenv(name); /* moves the rest down */
        } else {
            variable++;
        }
    }
}

/* In the child: becomes the server, or ends with 127. */
static void child_run(char *const *arguments, pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(127); /* it died before the line above */
    environment_clean();
    dup2(STDERR_FILENO, STDOUT_FILENO); /* our standard output is for the report */
    execv("/proc/self/exe", arguments);
    _exit(127);
}

static enum err ready_wait(struct bench_process *process, int timeout_s, struct err_info *info)
{
    int64_t deadline = clock_us() + (int64_t)timeout_s * 1000000;
    while (clock_us() < deadline) {
        int status = 0, http = 0;
        if (waitpid(process->pid, &status, WNOHANG) == process->pid) {
            process->pid = -1;
            return err_set(info, ERR_IO, "the server ended before it was ready (%s %d)",
                           WIFEXITED(status) ? "exit code" : "signal",
                           WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
        }
        struct buf body;
        buf_init(&body, 1 << 16);
        enum err err = bench_get(&process->url, "/health", NULL, 1000, &http, &body, NULL);
        buf_free(&body);
        if (!err && http == 200) return ERR_OK;
        usleep(POLL_US);
    }
    return err_set(info, ERR_IO, "the server was not ready within %d s", timeout_s);
}

enum err bench_process_start(char *const *arguments, int port, int timeout_s, struct bench_process *out,
                             struct err_info *info)
{
    struct bench_process process;
    char url[64];
    snprintf(url, sizeof url, "http://127.0.0.1:%d", port);
    enum err err = bench_url_parse(url, &process.url, info);
    if (err) return err;
    pid_t parent = getpid();
    fflush(NULL);
    process.pid = fork();
    if (process.pid < 0) return err_set(info, ERR_IO, "fork: %s", strerror(errno));
    if (process.pid == 0) child_run(arguments, parent);
    err = ready_wait(&process, timeout_s, info);
    if (err)
        bench_process_stop(&process);
    else
        *out = process;
    return err;
}

void bench_process_stop(struct bench_process *process)
{
    if (process->pid < 0) return;
    kill(process->pid, SIGTERM);
    int64_t deadline = clock_us() + (int64_t)STOP_S * 1000000;
    while (waitpid(process->pid, NULL, WNOHANG) == 0) {
        if (clock_us() > deadline) {
            kill(process->pid, SIGKILL);
            waitpid(process->pid, NULL, 0);
            break;
        }
        usleep(POLL_US);
    }
    process->pid = -1;
}
