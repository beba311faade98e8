
/*
 * For nginx under valgrind: what /proc/PID/cmdline holds is valgrind's own
 * memory, and a title that nginx writes over its arguments is not seen there.
 * The first 15 characters of it go into /proc/PID/comm: enough to tell
 * "worker process" from "worker process is shutting down", by the blank.
 */

#include <sys/prctl.h>


/* weak, since the configure script links it with programs of its own */
void __real_ngx_setproctitle(char *title) __attribute__((weak));
void __wrap_ngx_setproctitle(char *title);


void
__wrap_ngx_setproctitle(char *title)
{
    __real_ngx_setproctitle(title);

    (void) prctl(PR_SET_NAME, title, 0, 0, 0);
}
