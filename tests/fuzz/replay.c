#include <dirent.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/*
 * The main of replay_NAME: runs a fuzz target once over every file of the folders and files given, so that
 * the corpus is a test with any compiler. Fails when there is no file: a corpus that went missing is a fault.
 */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t n_files;

static int replay_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file) {
        perror(path);
        return 1;
    }
    size_t length = 0, capacity = 0;
    uint8_t *data = NULL;
    for (;;) {
        if (length == capacity) {
            capacity = capacity ? capacity * 2 : 4096;
            uint8_t *grown = realloc(data, capacity);
            if (!grown) abort();
            data = grown;
        }
        size_t n = fread(data + length, 1, capacity - length, file);
        if (n == 0) break;
        length += n;
    }
    int failed = ferror(file);
    fclose(file);
    /* An exact copy: a sanitizer then sees a read past the end. */
    uint8_t *exact = malloc(length ? length : 1);
    if (!exact) abort();
    memcpy(exact, data, length);
    free(data);
    LLVMFuzzerTestOneInput(exact, length);
    free(exact);
    n_files++;
    return failed;
}

static int replay_path(const char *path)
{
    struct stat status;
    if (stat(path, &status) != 0) {
        perror(path);
        return 1;
    }
    if (!S_ISDIR(status.st_mode)) return replay_file(path);
    DIR *folder = opendir(path);
    if (!folder) {
        perror(path);
        return 1;
    }
    int failed = 0;
    for (struct dirent *entry; (entry = readdir(folder));) {
        if (entry->d_name[0] == '.') continue;
        char name[4096];
        snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        failed |= replay_path(name);
    }
    closedir(folder);
    return failed;
}

int main(int argc, char **argv)
{
    int failed = 0;
    for (int i = 1; i < argc; i++) failed |= replay_path(argv[i]);
    printf("%zu inputs\n", n_files);
    return failed || n_files == 0;
}
