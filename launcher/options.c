#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/util.h"
#include "launcher/options.h"
#include "launcher/session.h"

#define LONG_VALUE_BASE 1000 /* getopt's value of option i; above every letter */
#define HELP_COLUMN     32

static bool parse_integer(const char *text, int64_t min, int64_t max, int64_t *value)
{
    char     *end;
    long long parsed;

    errno  = 0;
    parsed = strtoll(text, &end, 10);
    if (strspn(text, "-0123456789") != strlen(text) || end == text || *end != '\0' || errno != 0 ||
        parsed < min || parsed > max) {
        return false;
    }
    *value = parsed;
    return true;
}

static witan_status_t set_integer(const wtn_option_t *option, const char *text)
{
    if (parse_integer(text, option->min, option->max, option->value)) {
        return WITAN_OK;
    }
    return WTN_ERROR(WITAN_E_ARGUMENT,
                     "--%s: expected an integer from %" PRId64 " to %" PRId64 ", found '%s'",
                     option->name, option->min, option->max, text);
}

static witan_status_t set_seconds(const wtn_option_t *option, const char *text)
{
    char  *end;
    double parsed;

    errno  = 0;
    parsed = strtod(text, &end);
    if (strspn(text, "0123456789.e-") != strlen(text) || end == text || *end != '\0' ||
        !(parsed >= 0.001 && parsed <= 1e9)) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "--%s: expected seconds from 0.001 to 1e9, found '%s'",
                         option->name, text);
    }
    *(uint64_t *)option->value = (uint64_t)llround(parsed * 1e9);
    return WITAN_OK;
}

static witan_status_t set_choice(const wtn_option_t *option, const char *text)
{
    const char *word  = option->argument;
    size_t      bytes = strlen(text);

    for (int32_t index = 0; *word != '\0'; index++) {
        size_t word_bytes = strcspn(word, "|");

        if (word_bytes == bytes && memcmp(word, text, bytes) == 0) {
            *(int32_t *)option->value = index;
            return WITAN_OK;
        }
        word += word_bytes + (word[word_bytes] == '|' ? 1 : 0);
    }
    return WTN_ERROR(WITAN_E_ARGUMENT, "--%s: expected %s, found '%s'", option->name,
                     option->argument, text);
}

static witan_status_t set_list(const wtn_option_t *option, const char *text)
{
    wtn_option_list_t *list = option->value;
    const char        *at   = text;
    char               number[24];

    list->count = 0;
    for (;;) {
        size_t bytes = strcspn(at, ",");

        if (list->count == WTN_OPTION_LIST_MAX || bytes >= sizeof(number)) {
            break;
        }
        memcpy(number, at, bytes);
        number[bytes] = '\0';
        if (!parse_integer(number, option->min, option->max, &list->values[list->count])) {
            break;
        }
        list->count++;
        if (at[bytes] == '\0') {
            return WITAN_OK;
        }
        at += bytes + 1;
    }
    return WTN_ERROR(WITAN_E_ARGUMENT,
                     "--%s: expected 1 to %d integers from %" PRId64 " to %" PRId64
                     " joined by commas, found '%s'",
                     option->name, WTN_OPTION_LIST_MAX, option->min, option->max, text);
}

static witan_status_t set_text(const wtn_option_t *option, const char *text, const char **value)
{
    if (*text == '\0') {
        return WTN_ERROR(WITAN_E_ARGUMENT, "--%s: expected %s, found nothing", option->name,
                         option->argument);
    }
    *value = text;
    return WITAN_OK;
}

static witan_status_t add_text(const wtn_option_t *option, const char *text)
{
    wtn_option_texts_t *texts = option->value;

    if (texts->count == WTN_OPTION_TEXTS_MAX) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "--%s: expected at most %d, found more, from '%s' on",
                         option->name, WTN_OPTION_TEXTS_MAX, text);
    }
    return set_text(option, text, &texts->values[texts->count++]);
}

static witan_status_t set_size(const wtn_option_t *option, const char *text)
{
    static const char letters[] = "KMG";
    size_t            bytes     = strlen(text);
    const char       *letter    = bytes > 0 ? strchr(letters, text[bytes - 1]) : NULL;
    int               shift     = letter != NULL ? 10 * (int)(letter - letters + 1) : 0;
    char              number[24];

    if (bytes < sizeof(number)) {
        memcpy(number, text, bytes + 1);
        number[letter != NULL ? bytes - 1 : bytes] = '\0';
        if (parse_integer(number, 0, option->max >> shift, option->value)) {
            *(int64_t *)option->value <<= shift;
            if (*(int64_t *)option->value >= option->min) {
                return WITAN_OK;
            }
        }
    }
    return WTN_ERROR(WITAN_E_ARGUMENT,
                     "--%s: expected bytes from %" PRId64 " to %" PRId64
                     ", or so many K, M or G, found '%s'",
                     option->name, option->min, option->max, text);
}

static witan_status_t set_value(const wtn_option_t *option, const char *text)
{
    switch (option->kind) {
    case WTN_OPTION_FLAG:
        *(bool *)option->value = true;
        return WITAN_OK;
    case WTN_OPTION_TEXT:
        return set_text(option, text, option->value);
    case WTN_OPTION_TEXTS:
        return add_text(option, text);
    case WTN_OPTION_INTEGER:
        return set_integer(option, text);
    case WTN_OPTION_SECONDS:
        return set_seconds(option, text);
    case WTN_OPTION_CHOICE:
        return set_choice(option, text);
    case WTN_OPTION_LIST:
        return set_list(option, text);
    case WTN_OPTION_SIZE:
        return set_size(option, text);
    }
    return WTN_ERROR(WITAN_E_INTERNAL, "--%s: kind %d", option->name, (int)option->kind);
}

static void clear_value(const wtn_option_t *option)
{
    static const size_t bytes[] = {
        [WTN_OPTION_FLAG]    = sizeof(bool),
        [WTN_OPTION_TEXT]    = sizeof(const char *),
        [WTN_OPTION_INTEGER] = sizeof(int64_t),
        [WTN_OPTION_SECONDS] = sizeof(uint64_t),
        [WTN_OPTION_CHOICE]  = sizeof(int32_t),
        [WTN_OPTION_LIST]    = sizeof(wtn_option_list_t),
        [WTN_OPTION_TEXTS]   = sizeof(wtn_option_texts_t),
    };

    memset(option->value, 0, bytes[option->kind]);
}

static witan_status_t set_defaults(const wtn_command_t *command)
{
    for (size_t i = 0; i < command->option_count; i++) {
        wtn_option_t  *option = &command->options[i];
        witan_status_t status = WITAN_OK;

        option->given = false;
        option->text  = option->fallback != NULL ? option->fallback : "";
        clear_value(option);
        if (option->fallback != NULL) {
            status = set_value(option, option->fallback);
        }
        if (status != WITAN_OK) {
            return status;
        }
    }
    return WITAN_OK;
}

/* The tables getopt_long wants; the caller's last entries are --help and the end mark. */
static void make_getopt(const wtn_command_t *command, struct option *longs, char *shorts)
{
    size_t i;

    *shorts++ = '+'; /* stop at the first word that is no option: it is refused */
    *shorts++ = ':'; /* tell a missing argument from an unknown option */
    for (i = 0; i < command->option_count; i++) {
        const wtn_option_t *option = &command->options[i];

        longs[i].name    = option->name;
        longs[i].has_arg = option->kind == WTN_OPTION_FLAG ? no_argument : required_argument;
        longs[i].flag    = NULL;
        longs[i].val     = LONG_VALUE_BASE + (int)i;
        if (option->letter != '\0') {
            *shorts++ = option->letter;
            if (option->kind != WTN_OPTION_FLAG) {
                *shorts++ = ':';
            }
        }
    }
    longs[i] = (struct option){"help", no_argument, NULL, 'h'};
    memset(&longs[i + 1], 0, sizeof(*longs));
    *shorts++ = 'h';
    *shorts   = '\0';
}

static wtn_option_t *find_value(const wtn_command_t *command, int value)
{
    for (size_t i = 0; i < command->option_count && value != 0; i++) {
        if (value == LONG_VALUE_BASE + (int)i || value == command->options[i].letter) {
            return &command->options[i];
        }
    }
    return NULL;
}

static witan_status_t refuse(const wtn_command_t *command, int found, char **argv)
{
    const wtn_option_t *option = find_value(command, optopt);

    if (found == ':' && option != NULL) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "--%s: expected %s, found nothing", option->name,
                         option->argument);
    }
    if (option != NULL) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "--%s: expected no value, found '%s'", option->name,
                         argv[optind - 1]);
    }
    if (optopt != 0) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "unknown option '-%c' (witan %s --help lists them)",
                         optopt, command->name);
    }
    return WTN_ERROR(WITAN_E_ARGUMENT, "unknown option '%s' (witan %s --help lists them)",
                     argv[optind - 1], command->name);
}

static witan_status_t take(wtn_option_t *option, const char *text)
{
    if (option->given && option->kind != WTN_OPTION_TEXTS) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "--%s: given twice", option->name);
    }
    option->given = true;
    option->text  = text != NULL ? text : "yes";
    return set_value(option, option->text);
}

static witan_status_t check_required(const wtn_command_t *command)
{
    for (size_t i = 0; i < command->option_count; i++) {
        const wtn_option_t *option = &command->options[i];

        if (option->required && !option->given) {
            return WTN_ERROR(WITAN_E_ARGUMENT, "--%s %s is missing (see witan %s --help)",
                             option->name, option->argument, command->name);
        }
    }
    return WITAN_OK;
}

witan_status_t wtn_options_parse(const wtn_command_t *command, int argc, char **argv, bool *help)
{
    struct option  longs[WTN_OPTION_COUNT_MAX + 2];
    char           shorts[2 * WTN_OPTION_COUNT_MAX + 4];
    witan_status_t status;
    int            found;

    *help = false;
    if (command->option_count > WTN_OPTION_COUNT_MAX) {
        return WTN_ERROR(WITAN_E_INTERNAL, "%s: %zu options", command->name, command->option_count);
    }
    WTN_TRY(set_defaults(command));
    make_getopt(command, longs, shorts);
    optind = 0; /* GNU: start afresh */
    opterr = 0;
    while ((found = getopt_long(argc, argv, shorts, longs, NULL)) != -1) {
        wtn_option_t *option = find_value(command, found);

        if (found == 'h') {
            *help = true;
            return WITAN_OK;
        }
        if (option == NULL) {
            return refuse(command, found, argv);
        }
        WTN_TRY(take(option, optarg));
        while (option->kind == WTN_OPTION_TEXTS && optind < argc && argv[optind][0] != '-') {
            WTN_TRY(set_value(option, argv[optind++]));
        }
    }
    if (optind < argc) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "unexpected argument '%s' (see witan %s --help)",
                         argv[optind], command->name);
    }
    WTN_TRY(check_required(command));
    return WITAN_OK;

fail:
    return status;
}

int wtn_options_help(const wtn_command_t *command)
{
    if (wtn_launcher_rank() != 0) {
        return 0;
    }
    printf("usage: witan %s [OPTIONS]\n%s\n\n", command->name, command->summary);
    for (size_t i = 0; i < command->option_count; i++) {
        const wtn_option_t *option = &command->options[i];
        char                left[64];
        int                 used;

        used = snprintf(left, sizeof(left), "  %c%c%s--%s %s", option->letter != '\0' ? '-' : ' ',
                        option->letter != '\0' ? option->letter : ' ',
                        option->letter != '\0' ? ", " : "  ", option->name,
                        option->argument != NULL ? option->argument : "");
        printf("%s%*s%s%s", left, used < HELP_COLUMN ? HELP_COLUMN - used : 2, "",
               option->cuda ? "cuda: " : "", option->help);
        if (option->required) {
            printf(" (required)");
        } else if (option->fallback != NULL) {
            printf(" (default %s)", option->fallback);
        }
        printf("\n");
    }
    printf("  -h, --help%*sshow this text\n", HELP_COLUMN - 12, "");
    return wtn_results_end();
}

bool wtn_option_given(const wtn_command_t *command, const char *name)
{
    for (size_t i = 0; i < command->option_count; i++) {
        if (strcmp(command->options[i].name, name) == 0) {
            return command->options[i].given;
        }
    }
    return false;
}

/* A long path keeps its begin for the reader; the hash of the whole makes it comparable. */
void wtn_options_fields(const wtn_command_t *command, wtn_field_t *fields)
{
    for (size_t i = 0; i < command->option_count; i++) {
        const wtn_option_t *option = &command->options[i];
        size_t              bytes  = strlen(option->text);

        if (option->own) {
            wtn_field_set(&fields[i], option->name, "%s", option->given ? "given" : "(none)");
        } else if (bytes < WTN_FIELD_BYTES) {
            wtn_field_set(&fields[i], option->name, "%s", bytes == 0 ? "(none)" : option->text);
        } else {
            wtn_field_set(&fields[i], option->name, "%.40s... (%08" PRIx32 ")", option->text,
                          (uint32_t)wtn_hash(0, option->text, bytes));
        }
    }
}
