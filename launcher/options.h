/* Command lines: one table per command; the usage text and the checks are made from it. */
#ifndef WTN_OPTIONS_H
#define WTN_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <witan/status.h>

#include "comm/comm.h"

typedef enum wtn_option_kind {
    WTN_OPTION_FLAG,    /* bool: true when given */
    WTN_OPTION_TEXT,    /* const char *: not empty */
    WTN_OPTION_INTEGER, /* int64_t: min..max */
    WTN_OPTION_SECONDS, /* uint64_t: nanoseconds, from 0.001 to 1e9 seconds */
    WTN_OPTION_CHOICE,  /* int32_t: index among the words of `argument`, "ep|tp" */
    WTN_OPTION_LIST,    /* wtn_option_list_t: integers min..max, "1,2,4" */
    WTN_OPTION_SIZE,    /* int64_t: min..max bytes, "64K": K, M and G are powers of 1024 */
    WTN_OPTION_TEXTS,   /* wtn_option_texts_t: words up to the next option; may be given again */
} wtn_option_kind_t;

#define WTN_OPTION_LIST_MAX 64

typedef struct wtn_option_list {
    int64_t values[WTN_OPTION_LIST_MAX];
    int32_t count;
} wtn_option_list_t;

#define WTN_OPTION_TEXTS_MAX 64

typedef struct wtn_option_texts {
    const char *values[WTN_OPTION_TEXTS_MAX];
    int32_t     count;
} wtn_option_texts_t;

typedef struct wtn_option {
    const char       *name; /* without the dashes */
    char              letter;
    wtn_option_kind_t kind;
    const char       *argument; /* "DIR"; the words of a choice; NULL for a flag */
    const char       *fallback; /* text of the default, read like a given one; NULL: none */
    const char       *help;
    void             *value; /* where it goes, of the type named with its kind */
    int64_t           min, max;
    bool              required;
    bool              own;   /* ranks may give different words, if all or none give any */
    bool              cuda;  /* other values than the fallback need --backend cuda */
    bool              given; /* out */
    const char       *text;  /* out: as given, else the fallback, else "" */
} wtn_option_t;

/* Rows of a table. `value_` has the type named with the kind. */
#define WTN_OPT_FLAG(name_, value_, help_)                                     \
    {                                                                          \
        .name = name_, .kind = WTN_OPTION_FLAG, .help = help_, .value = value_ \
    }
#define WTN_OPT_TEXT(name_, argument_, fallback_, value_, help_)                              \
    {                                                                                         \
        .name = name_, .kind = WTN_OPTION_TEXT, .argument = argument_, .fallback = fallback_, \
        .help = help_, .value = value_                                                        \
    }
#define WTN_OPT_REQUIRED(name_, argument_, value_, help_)                             \
    {                                                                                 \
        .name = name_, .kind = WTN_OPTION_TEXT, .argument = argument_, .help = help_, \
        .value = value_, .required = true                                             \
    }
#define WTN_OPT_INTEGER(name_, argument_, fallback_, min_, max_, value_, help_)                  \
    {                                                                                            \
        .name = name_, .kind = WTN_OPTION_INTEGER, .argument = argument_, .fallback = fallback_, \
        .help = help_, .value = value_, .min = min_, .max = max_                                 \
    }
/* The folder of a model: nodes may have copies of their own, the layer's digest compares them. */
#define WTN_OPT_MODEL(value_, required_, help_)                                     \
    {                                                                               \
        .name = "model", .kind = WTN_OPTION_TEXT, .argument = "DIR", .help = help_, \
        .value = value_, .required = required_, .own = true                         \
    }
#define WTN_OPT_REQUIRED_INTEGER(name_, argument_, min_, max_, value_, help_)            \
    {                                                                                    \
        .name = name_, .kind = WTN_OPTION_INTEGER, .argument = argument_, .help = help_, \
        .value = value_, .min = min_, .max = max_, .required = true                      \
    }
#define WTN_OPT_SECONDS(name_, value_, help_)                                            \
    {                                                                                    \
        .name = name_, .kind = WTN_OPTION_SECONDS, .argument = "SECONDS", .help = help_, \
        .value = value_                                                                  \
    }
#define WTN_OPT_CHOICE(name_, words_, fallback_, value_, help_)                              \
    {                                                                                        \
        .name = name_, .kind = WTN_OPTION_CHOICE, .argument = words_, .fallback = fallback_, \
        .help = help_, .value = value_                                                       \
    }
#define WTN_OPT_LIST(name_, fallback_, min_, max_, value_, help_)                             \
    {                                                                                         \
        .name = name_, .kind = WTN_OPTION_LIST, .argument = "N,N,...", .fallback = fallback_, \
        .help = help_, .value = value_, .min = min_, .max = max_                              \
    }

typedef struct wtn_command {
    const char   *name;    /* "run", "bench layer" */
    const char   *summary; /* one line */
    wtn_option_t *options;
    size_t        option_count;
} wtn_command_t;

/* Set every value from its default, then from argv[1..argc). `--help` and `-h` are known to every
 * command: *help is set and nothing else is checked. WITAN_E_ARGUMENT naming the option, what was
 * expected and what was found. Local. */
witan_status_t wtn_options_parse(const wtn_command_t *command, int argc, char **argv, bool *help);

/* Print the usage text on stdout, once among the ranks of a launcher. */
int wtn_options_help(const wtn_command_t *command);

/* Was this option on the command line; false for a name that is not in the table. */
bool wtn_option_given(const wtn_command_t *command, const char *name);

/* Name and text of every option, to compare command lines over ranks; `fields` has room for
 * command->option_count. */
void wtn_options_fields(const wtn_command_t *command, wtn_field_t *fields);

#define WTN_OPTION_COUNT_MAX 55 /* with the command's name WTN_FIELDS_MAX of comm.h */

#endif
