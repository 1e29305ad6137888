#ifndef CONFIG_OPTION_TABLE_H
#define CONFIG_OPTION_TABLE_H

#include "config/arena.h"
#include "config/option.h"

/* Between option.c, option_file.c and option_help.c. */

struct option_field {
    enum option_origin origin;
    const struct option *via; /* the option that set it: itself or one that shares the field */
    const char *text;         /* as written */
    const char *written; /* how the user named it: "--max-model-len", "OCTAVO_PORT", "octavo.ini:3: port" */
};

/* A variable with the prefix that is no option. */
struct option_stranger {
    struct option_stranger *next;
    char *name;
};

struct option_state {
    struct arena *arena;
    const char *file;                  /* path of the config file, NULL when there was none */
    struct option_field *fields;       /* [n_options]; only owners' entries are used */
    struct option_stranger *strangers; /* newest first */
};

/* One run of the parser. */
struct option_run {
    const struct option_table *table;
    char *values;
    struct option_state *state;
    struct err_info *info;
};

enum { OPTION_ARENA_BYTES = 4 << 20, OPTION_FILE_BYTES = 1 << 20 };

/* Index of the first option with the same field. */
size_t option_owner(const struct option_table *table, size_t index);
/* Index of the option of this long name (length bytes, '_' as '-'), aliases included when asked; n_options
   when there is none. */
size_t option_find(const struct option_table *table, const char *name, size_t length, bool aliases);
/* "did you mean" among long names: a name of the table or NULL. */
const char *option_nearest(const struct option_table *table, const char *name);
/* Read text as the value of option `index` and store it, unless a stronger origin has set the field. */
enum err option_set(struct option_run *run, size_t index, enum option_origin origin, const char *written,
                    const char *text);
/* Does the list "-c --max-model-len" or "f16|o4|o2" hold this word? */
bool option_list_holds(const char *list, const char *word);
/* Zero, or NULL, in the type of the option's field. */
void option_field_clear(const struct option *option, char *values);
/* printf into the arena; NULL when it is exhausted. */
char *option_format(struct option_state *state, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
enum err option_memory(struct option_run *run); /* ERR_MEMORY, with its message */

/* Apply a config file (ini, or JSON when its first character is '{'). */
enum err option_file_read(struct option_run *run, const char *path);
/* The same from memory; name is for messages. */
enum err option_file_apply(struct option_run *run, const char *name, const char *text, size_t length);

#endif
