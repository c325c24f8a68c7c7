/* router.c - the program: finds the subcommand, prints its error, picks the exit status. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "core/buf.h"
#include "core/err.h"
#include "core/flags.h"
#include "core/mem.h"
#include "core/stop.h"
#include "core/text.h"
#include "data/augment_cmd.h"
#include "data/check_cmd.h"
#include "data/fetch_cmd.h"
#include "data/import_cmd.h"
#include "data/mix_cmd.h"
#include "data/pack_cmd.h"
#include "data/split_cmd.h"
#include "data/synth_cmd.h"
#include "eval/add_domain_cmd.h"
#include "eval/bench_cmd.h"
#include "eval/calibrate_cmd.h"
#include "eval/compare_cmd.h"
#include "eval/eval_cmd.h"
#include "eval/export_cmd.h"
#include "eval/live_cmd.h"
#include "eval/predict_cmd.h"
#include "eval/system_cmd.h"
#include "eval/verify_cmd.h"
#include "export/inspect_cmd.h"
#include "export/librouter.h"
#include "tokenizer/tokenize_cmd.h"
#include "train/train_cmd.h"

static const Command *const COMMANDS[] = {
    &fetch_cmd,    &import_cmd, &synth_cmd,   &augment_cmd,    &check_cmd,     &mix_cmd,    &split_cmd,
    &tokenize_cmd, &pack_cmd,   &train_cmd,   &add_domain_cmd, &calibrate_cmd, &eval_cmd,   &compare_cmd,
    &system_cmd,   &live_cmd,   &predict_cmd, &export_cmd,     &inspect_cmd,   &verify_cmd, &bench_cmd};
enum { COMMAND_COUNT = sizeof COMMANDS / sizeof COMMANDS[0] };

static void put_overview(Buf *out) {
    buf_puts(out,
             "router - sends prompts to the right expert\n\n"
             "From labelled prompts (JSONL) to a small, checked file that any runtime can read: tokenise,\n"
             "fine-tune a DeBERTa-v3 classifier, evaluate it, quantise and export it.\n\n"
             "usage: router COMMAND [ARGUMENTS] [OPTIONS]\n\n"
             "Commands, in the order of use:\n");
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        buf_printf(out, "  %-14s %s\n", COMMANDS[i]->name, COMMANDS[i]->summary);
    buf_puts(
        out,
        "\n  router COMMAND --help   all arguments and options of a command\n"
        "  router --version        this program's version\n\n"
        "Example:\n"
        "  router train prompts.jsonl --model deberta-v3-small --out runs/first\n"
        "  router eval runs/first\n"
        "  router export runs/first --out router.safetensors\n"
        "  echo 'why is the sky blue?' | router predict router.safetensors --lines\n\n"
        "Results go to stdout, progress and errors to stderr.\n"
        "Exit status: 0 done; 1 failure; 2 wrong usage or configuration; 3 a quality gate or comparison\n"
        "failed; 130 interrupted, after saving.\n");
}

static ErrCode print_overview(FILE *out, Err *err) {
    Buf text = {0};
    put_overview(&text);
    const ErrCode rc = buf_print(&text, out, err);
    buf_free(&text);
    return rc;
}

static ErrCode print_help(const Command *command, Err *err) {
    Buf text = {0};
    flags_help(&text, command);
    const ErrCode rc = buf_print(&text, stdout, err);
    buf_free(&text);
    return rc;
}

/* The command that words[0..count) begin with, and how many of them its name is: one, or two ("data check"). */
static ErrCode find_command(const Command **out, int *taken, int count, char **words, Err *err) {
    const char *names[COMMAND_COUNT], *seconds[COMMAND_COUNT];
    size_t second_count = 0;
    char name[64], shown[64], group[256] = "";
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        names[i] = COMMANDS[i]->name;
        const char *space = strchr(names[i], ' ');
        const size_t first = space ? (size_t)(space - names[i]) : strlen(names[i]), n = strlen(group);
        if (strncmp(words[0], names[i], first) != 0 || words[0][first]) continue;
        *out = COMMANDS[i];
        *taken = space ? 2 : 1;
        if (!space || (count > 1 && strcmp(words[1], space + 1) == 0)) return ERR_OK;
        seconds[second_count++] = space + 1;
        (void)snprintf(group + n, sizeof group - n, "%s%s", n ? ", " : "", space + 1);
    }
    if (second_count && count == 1)
        return err_set(err, ERR_ARGUMENT, "'%s' is not all of a command: expected %s and one of %s", words[0],
                       words[0], group);
    (void)snprintf(name, sizeof name, "%s%s%s", words[0], second_count ? " " : "",
                   second_count ? words[1] : "");
    text_excerpt(shown, 56, name, strlen(name));
    const char *near = second_count ? text_nearest(words[1], seconds, second_count)
                                    : text_nearest(words[0], names, COMMAND_COUNT);
    if (near)
        return err_set(err, ERR_ARGUMENT, "unknown command '%s'; did you mean '%s%s%s'?", shown,
                       second_count ? words[0] : "", second_count ? " " : "", near);
    if (second_count)
        return err_set(err, ERR_ARGUMENT, "unknown command '%s'; expected %s and one of %s", shown, words[0],
                       group);
    return err_set(err, ERR_ARGUMENT, "unknown command '%s'; see 'router --help'", shown);
}

static ErrCode run_command(const Command *command, int argc, char **argv, Err *err) {
    FlagList arguments = {0};
    bool help = false;
    void *options;
    TRY(mem_new(&options, 1, command->options_bytes ? command->options_bytes : 1, "the options", err));
    ErrCode rc = flags_parse(command, options, &arguments, &help, argc, argv, err);
    if (rc == ERR_OK && help)
        rc = print_help(command, err);
    else if (rc == ERR_OK)
        rc = command->run(options, &arguments, stdout, err);
    flags_free(command, options, &arguments);
    mem_free(options);
    return rc;
}

static bool is(const char *arg, const char *a, const char *b) {
    return strcmp(arg, a) == 0 || strcmp(arg, b) == 0;
}

static ErrCode dispatch(int argc, char **argv, Err *err) {
    const Command *command;
    if (argc < 2) {
        TRY(print_overview(stderr, err));
        return err_set(err, ERR_ARGUMENT, "expected a command");
    }
    if (is(argv[1], "--version", "-V")) {
        if (printf("router %s\n", router_version()) > 0) return ERR_OK;
        return err_set(err, ERR_IO, "stdout: %s", strerror(errno));
    }
    const bool help = strcmp(argv[1], "help") == 0;
    if (is(argv[1], "--help", "-h") || (help && argc == 2)) return print_overview(stdout, err);
    const int at = help ? 2 : 1;
    int taken;
    TRY(find_command(&command, &taken, argc - at, argv + at, err));
    return help ? print_help(command, err) : run_command(command, argc - at - taken, argv + at + taken, err);
}

static int exit_status(ErrCode rc) {
    switch (rc) {
        case ERR_OK: return 0;
        case ERR_ARGUMENT: return 2;
        case ERR_GATE: return 3;
        case ERR_INTERRUPTED: return 130;
        default: return 1;
    }
}

int main(int argc, char **argv) {
    (void)signal(SIGPIPE, SIG_IGN); /* a reader that went away is an error of write(), with a message */
    (void)signal(SIGXFSZ, SIG_IGN); /* and so is a file that would become larger than `ulimit -f` */
    stop_install();
    Err err = {0};
    ErrCode rc = dispatch(argc, argv, &err);
    errno = 0;
    const bool lost = fflush(stdout) != 0 || ferror(stdout);
    if (rc == ERR_OK && lost)
        rc = err_set(&err, ERR_IO, "stdout: %s", errno ? strerror(errno) : "output was lost");
    if (rc != ERR_OK) (void)fprintf(stderr, "router: %s\n", err.msg);
    return exit_status(rc);
}
