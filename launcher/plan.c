/* witan plan: the choice between its subcommands. */
#include <stdio.h>
#include <string.h>

#include "core/util.h"
#include "launcher/commands.h"
#include "launcher/plan.h"
#include "launcher/session.h"

static const struct {
    const char *name, *help;
    int (*run)(int argc, char **argv);
} subcommands[] = {
    {"place", "experts and their replicas on ranks, by load", wtn_plan_place},
    {"scale", "time, limits, traffic and memory by number of nodes", wtn_plan_scale},
    {"calibrate", "measure this machine for plan scale", wtn_plan_calibrate},
};

static void print_usage(void)
{
    if (wtn_launcher_rank() != 0) {
        return;
    }
    printf("usage: witan plan SUBCOMMAND [OPTIONS]\n");
    for (size_t i = 0; i < WTN_COUNT_OF(subcommands); i++) {
        printf("  %-10s %s\n", subcommands[i].name, subcommands[i].help);
    }
    printf("witan plan SUBCOMMAND --help lists the options of each.\n");
}

int wtn_cmd_plan(int argc, char **argv)
{
    const char *word = argc >= 2 ? argv[1] : "";

    for (size_t i = 0; i < WTN_COUNT_OF(subcommands); i++) {
        if (strcmp(word, subcommands[i].name) == 0) {
            return subcommands[i].run(argc - 1, argv + 1);
        }
    }
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
        print_usage();
        return wtn_results_end();
    }
    return wtn_session_refuse(
        "plan: expected a subcommand, found '%s' (witan plan --help lists them)", word);
}
