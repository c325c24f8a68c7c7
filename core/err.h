/* core/err.h - one error type for the whole program.
 *
 * A function that can fail is `ErrCode verb(outputs, inputs, Err *err)`; err may be NULL. The message names
 * the user's place (file:line of their data, key of their config, tensor of their checkpoint), what was found
 * and what was expected. It is set once, where the failure is seen; whoever opened a file or a line prepends
 * it while unwinding. router.c alone turns the code into an exit status. */
#ifndef CORE_ERR_H
#define CORE_ERR_H

typedef enum {
    ERR_OK = 0,
    ERR_ARGUMENT,   /* wrong usage or configuration; exit status 2 */
    ERR_IO,         /* the operating system refused */
    ERR_FORMAT,     /* a file's bytes are not what its format says */
    ERR_SHAPE,      /* a tensor has another shape than the model needs */
    ERR_MEMORY,     /* allocation failed */
    ERR_NUMERIC,    /* a value that must be finite is not */
    ERR_BACKEND,    /* a library below us failed */
    ERR_GATE,       /* a quality gate or comparison failed; exit status 3 */
    ERR_INTERRUPTED /* stopped by a signal after saving; exit status 130 */
} ErrCode;

#define ERR_MESSAGE_BYTES 1024

typedef struct {
    ErrCode code;
    char msg[ERR_MESSAGE_BYTES]; /* one line, cut to fit, always terminated */
} Err;

#if defined(__GNUC__)
#define ERR_CHECKED      __attribute__((warn_unused_result))
#define ERR_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define ERR_CHECKED
#define ERR_PRINTF(f, a)
#endif

/* Sets code and message; returns code, so that `return err_set(...)` reads well. Control characters in the
 * message (which may quote hostile input) are replaced by '?'. */
ErrCode err_set(Err *err, ErrCode code, const char *fmt, ...) ERR_PRINTF(3, 4);

/* Prepends "text: " to the message of a failure that is being passed on; returns code. */
ErrCode err_context(Err *err, ErrCode code, const char *fmt, ...) ERR_PRINTF(3, 4);

/* Both return their code. A compiler cannot see that across files; told so, it knows that a failure is never
 * ERR_OK and that what a failed call did not write is not read. */
static inline ErrCode err_is(ErrCode returned, ErrCode code) {
    (void)returned;
    return code;
}
#define err_set(err, code, ...)     err_is((err_set)((err), (code), __VA_ARGS__), (code))
#define err_context(err, code, ...) err_is((err_context)((err), (code), __VA_ARGS__), (code))

/* For functions that own nothing. */
#define TRY(call)                              \
    do {                                       \
        const ErrCode try_rc_ = (call);        \
        if (try_rc_ != ERR_OK) return try_rc_; \
    } while (0)

#endif
