#include "model/grammar_regex.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/*
 * Sets of characters. A set is written as ranges, categories of Unicode and negation; what the grammar takes
 * are its ranges in order.
 */

enum { LAST_CHARACTER = 0x10FFFF, FIRST_SURROGATE = 0xD800, LAST_SURROGATE = 0xDFFF };

/* --- Categories --- */

#define BIT(name) (1u << UTF8PROC_CATEGORY_##name)
static const struct category {
    const char *short_name, *long_name;
    uint32_t bits;
} categories[] = {
    {"L", "Letter", BIT(LU) | BIT(LL) | BIT(LT) | BIT(LM) | BIT(LO)},
    {"LC", "Cased_Letter", BIT(LU) | BIT(LL) | BIT(LT)},
    {"Lu", "Uppercase_Letter", BIT(LU)},
    {"Ll", "Lowercase_Letter", BIT(LL)},
    {"Lt", "Titlecase_Letter", BIT(LT)},
    {"Lm", "Modifier_Letter", BIT(LM)},
    {"Lo", "Other_Letter", BIT(LO)},
    {"M", "Mark", BIT(MN) | BIT(MC) | BIT(ME)},
    {"M", "Combining_Mark", BIT(MN) | BIT(MC) | BIT(ME)},
    {"Mn", "Nonspacing_Mark", BIT(MN)},
    {"Mc", "Spacing_Mark", BIT(MC)},
    {"Me", "Enclosing_Mark", BIT(ME)},
    {"N", "Number", BIT(ND) | BIT(NL) | BIT(NO)},
    {"Nd", "Decimal_Number", BIT(ND)},
    {"Nd", "digit", BIT(ND)},
    {"Nl", "Letter_Number", BIT(NL)},
    {"No", "Other_Number", BIT(NO)},
    {"P", "Punctuation", BIT(PC) | BIT(PD) | BIT(PS) | BIT(PE) | BIT(PI) | BIT(PF) | BIT(PO)},
    {"P", "punct", BIT(PC) | BIT(PD) | BIT(PS) | BIT(PE) | BIT(PI) | BIT(PF) | BIT(PO)},
    {"Pc", "Connector_Punctuation", BIT(PC)},
    {"Pd", "Dash_Punctuation", BIT(PD)},
    {"Ps", "Open_Punctuation", BIT(PS)},
    {"Pe", "Close_Punctuation", BIT(PE)},
    {"Pi", "Initial_Punctuation", BIT(PI)},
    {"Pf", "Final_Punctuation", BIT(PF)},
    {"Po", "Other_Punctuation", BIT(PO)},
    {"S", "Symbol", BIT(SM) | BIT(SC) | BIT(SK) | BIT(SO)},
    {"Sm", "Math_Symbol", BIT(SM)},
    {"Sc", "Currency_Symbol", BIT(SC)},
    {"Sk", "Modifier_Symbol", BIT(SK)},
    {"So", "Other_Symbol", BIT(SO)},
    {"Z", "Separator", BIT(ZS) | BIT(ZL) | BIT(ZP)},
    {"Zs", "Space_Separator", BIT(ZS)},
    {"Zl", "Line_Separator", BIT(ZL)},
    {"Zp", "Paragraph_Separator", BIT(ZP)},
    {"C", "Other", BIT(CC) | BIT(CF) | BIT(CS) | BIT(CO) | BIT(CN)},
    {"Cc", "Control", BIT(CC)},
    {"Cc", "cntrl", BIT(CC)},
    {"Cf", "Format", BIT(CF)},
    {"Cs", "Surrogate", BIT(CS)},
    {"Co", "Private_Use", BIT(CO)},
    {"Cn", "Unassigned", BIT(CN)},
    {"Any", "Any", UINT32_MAX},
};

static bool is_name(const char *name, size_t length, const char *known)
{
    return strlen(known) == length && memcmp(known, name, length) == 0;
}

uint32_t regex_categories(const char *name, size_t length)
{
    static const char *const prefixes[] = {"gc=", "General_Category="};
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        size_t size = strlen(prefixes[i]);
        if (length > size && memcmp(name, prefixes[i], size) == 0) {
            name += size;
            length -= size;
            break;
        }
    }
    for (size_t i = 0; i < sizeof categories / sizeof *categories; i++)
        if (is_name(name, length, categories[i].short_name) || is_name(name, length, categories[i].long_name))
            return categories[i].bits;
    return 0;
}

/* All of Unicode as runs of one category, made once: a look at each character takes milliseconds. */
static struct {
    pthread_once_t once;
    struct run {
        uint32_t first; /* up to the next run's first */
        int category;
    } * runs;
    int n;
} unicode = {.once = PTHREAD_ONCE_INIT};

static void unicode_scan(void)
{
    int capacity = 0, n = 0;
    struct run *runs = NULL;
    for (int32_t code = 0; code <= LAST_CHARACTER; code++) {
        int category = utf8proc_category(code);
        if (n > 0 && runs[n - 1].category == category) continue;
        if (n == capacity) {
            capacity = capacity * 2 + 1024;
            struct run *grown = realloc(runs, (size_t)capacity * sizeof *runs);
            if (!grown) {
                free(runs);
                return;
            }
            runs = grown;
        }
        runs[n++] = (struct run){(uint32_t)code, category};
    }
    unicode.runs = runs;
    unicode.n = n;
}

/* --- Ranges --- */

struct list {
    struct grammar_range *ranges;
    int n, capacity;
};

static bool list_add(struct list *list, uint32_t first, uint32_t last)
{
    if (first > last) return true;
    if (list->n == list->capacity) {
        int capacity = list->capacity * 2 + 16;
        struct grammar_range *grown = realloc(list->ranges, (size_t)capacity * sizeof *grown);
        if (!grown) return false;
        list->ranges = grown;
        list->capacity = capacity;
    }
    list->ranges[list->n++] = (struct grammar_range){first, last};
    return true;
}

static bool add_categories(struct list *list, uint32_t bits)
{
    if (bits == 0) return true;
    pthread_once(&unicode.once, unicode_scan);
    if (!unicode.runs) return false;
    for (int i = 0; i < unicode.n; i++) {
        uint32_t last = i + 1 < unicode.n ? unicode.runs[i + 1].first - 1 : LAST_CHARACTER;
        if ((bits >> unicode.runs[i].category & 1) && !list_add(list, unicode.runs[i].first, last))
            return false;
    }
    return true;
}

static int compare_ranges(const void *a, const void *b)
{
    uint32_t x = ((const struct grammar_range *)a)->first, y = ((const struct grammar_range *)b)->first;
    return (x > y) - (x < y);
}

/* In order, those that overlap or touch as one. */
static void list_merge(struct list *list)
{
    int n = 0;
    if (list->n > 1) qsort(list->ranges, (size_t)list->n, sizeof *list->ranges, compare_ranges);
    for (int i = 0; i < list->n; i++) {
        struct grammar_range range = list->ranges[i];
        struct grammar_range *before = n > 0 ? &list->ranges[n - 1] : NULL;
        if (before && range.first <= before->last + 1) {
            if (range.last > before->last) before->last = range.last;
        } else {
            list->ranges[n++] = range;
        }
    }
    list->n = n;
}

/* In list: the characters that were not in it. */
static bool list_complement(struct list *list)
{
    struct list others = {0};
    uint32_t from = 0;
    bool fits = true;
    list_merge(list);
    for (int i = 0; fits && i < list->n; i++) {
        if (list->ranges[i].first > from) fits = list_add(&others, from, list->ranges[i].first - 1);
        from = list->ranges[i].last + 1;
    }
    fits = fits && list_add(&others, from, LAST_CHARACTER);
    free(list->ranges);
    *list = others;
    return fits;
}

enum err regex_set_ranges(const struct regex *regex, const struct regex_set *set, struct grammar_range **out,
                          int *n, struct err_info *info)
{
    struct list list = {0};
    bool fits = add_categories(&list, set->categories);
    for (int i = 0; fits && i < set->n; i++) {
        struct grammar_range range = regex->ranges[set->first + i];
        fits = list_add(&list, range.first, range.last);
    }
    /* Surrogates go with the characters that are left out. */
    if (!set->negated) fits = fits && list_complement(&list);
    fits = fits && list_add(&list, FIRST_SURROGATE, LAST_SURROGATE) && list_complement(&list);
    if (!fits) {
        free(list.ranges);
        return err_set(info, ERR_MEMORY, "no memory for a set of characters");
    }
    *out = list.ranges;
    *n = list.n;
    return ERR_OK;
}
