/* Commands that one rank does by itself: they need no others and never touch MPI. */
#ifndef WTN_ALONE_H
#define WTN_ALONE_H

#include "launcher/options.h"

/* Parse the options of `command`, then `check` for wrong usage that they do not tell, and do `work`
 * on one rank of a launcher. Returns the exit status; the one line of an error is printed. */
int wtn_alone(const wtn_command_t *command, int argc, char **argv,
              witan_status_t (*check)(void *context), witan_status_t (*work)(void *context),
              void *context);

#endif
