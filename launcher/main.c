/* The program `witan`. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <witan/witan.h>

#include "core/env.h"
#include "core/util.h"
#include "launcher/commands.h"
#include "launcher/session.h"

static const struct {
    const char *name, *help;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"run", "compute one block of a model over the ranks", wtn_cmd_run},
    {"check", "compare the distributed result with one rank and with float64", wtn_cmd_check},
    {"synth", "write a block with random weights as a Hugging Face folder", wtn_cmd_synth},
    {"info", "show machine, ranks, binding, backends and transports", wtn_cmd_info},
    {"bench", "measure communication, the experts, the whole layer or rebalancing", wtn_cmd_bench},
    {"plan", "place experts by load, predict scaling, describe this machine", wtn_cmd_plan},
    {"plot", "draw what the other commands wrote as JSON", wtn_cmd_plot},
};

static void print_usage(void)
{
    printf("usage: witan COMMAND [OPTIONS]\n"
           "The expert layers of mixture-of-experts models over many ranks: mpirun -n N witan "
           "...\n\n");
    for (size_t i = 0; i < WTN_COUNT_OF(commands); i++) {
        printf("  %-8s %s\n", commands[i].name, commands[i].help);
    }
    printf("\n  witan COMMAND --help lists the options of a command.\n\nEnvironment:\n");
#define PRINT_ENV(name, type, value, help) \
    printf("  %-20s %-8s %s (default %s)\n", #name, type, help, value);
    WTN_ENV_LIST(PRINT_ENV)
#undef PRINT_ENV
}

/* A standard stream that is closed would be the number of the next file opened, and what is printed
 * would go into it. */
static void hold_streams(void)
{
    int fd;

    do {
        fd = open("/dev/null", O_RDONLY);
    } while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd > STDERR_FILENO) {
        (void)close(fd);
    }
}

/* libgomp reads how long a waiting thread spins before main, and its default is milliseconds: where
 * cores are shared that is a hundred times longer than a step. A short spin costs nothing where
 * they are not. So the program starts once more with one, unless the user has chosen. */
static void start_with_short_spins(char **argv)
{
    if (getenv("OMP_WAIT_POLICY") == NULL && getenv("GOMP_SPINCOUNT") == NULL &&
        setenv("GOMP_SPINCOUNT", "1000", 1) == 0) {
        (void)execv("/proc/self/exe", argv); /* if that fails all still works */
    }
}

int main(int argc, char **argv)
{
    start_with_short_spins(argv);
    hold_streams();
    (void)signal(SIGPIPE, SIG_IGN); /* a closed pipe is an error of the write, not a signal */
    (void)signal(SIGXFSZ, SIG_IGN); /* and so is a file beyond the limit */
    if (argc < 2) {
        return wtn_session_refuse("expected a command, found none (witan --help lists them)");
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        print_usage();
        return wtn_results_end();
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("witan %s\n", witan_version());
        return wtn_results_end();
    }
    for (size_t i = 0; i < WTN_COUNT_OF(commands); i++) {
        if (strcmp(argv[1], commands[i].name) == 0) {
            return commands[i].run(argc - 1, argv + 1);
        }
    }
    return wtn_session_refuse("unknown command '%s' (witan --help lists them)", argv[1]);
}
