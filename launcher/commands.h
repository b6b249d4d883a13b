/* The commands of the program. Each gets its own words (argv[0] is the command's name) and returns
 * the exit status: 0 success, 1 failure, 2 wrong usage. */
#ifndef WTN_COMMANDS_H
#define WTN_COMMANDS_H

int wtn_cmd_run(int argc, char **argv);
int wtn_cmd_check(int argc, char **argv);
int wtn_cmd_synth(int argc, char **argv);
int wtn_cmd_info(int argc, char **argv);
int wtn_cmd_bench(int argc, char **argv);
int wtn_cmd_plan(int argc, char **argv);
int wtn_cmd_plot(int argc, char **argv);

#endif
