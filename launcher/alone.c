#include "launcher/alone.h"

#include <stdio.h>

#include "launcher/session.h"

int wtn_alone(const wtn_command_t *command, int argc, char **argv,
              witan_status_t (*check)(void *context), witan_status_t (*work)(void *context),
              void *context)
{
    bool           help   = false;
    witan_status_t status = wtn_options_parse(command, argc, argv, &help);

    if (help) {
        return wtn_options_help(command);
    }
    if (status != WITAN_OK || check(context) != WITAN_OK) {
        return wtn_session_refuse("%s", witan_last_error());
    }
    if (wtn_launcher_rank() != 0) {
        return 0;
    }
    status = work(context);
    if (status != WITAN_OK) {
        (void)fprintf(stderr, "witan: %s\n", witan_last_error());
        return status == WITAN_E_ARGUMENT ? 2 : 1;
    }
    return 0;
}
