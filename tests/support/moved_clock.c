/* The clock of one process, moved while it runs: preloaded, this library answers clock_gettime (for the real-time clocks),
 * gettimeofday and time from a file that a test writes. Monotonic clocks are left alone: event loops run on them.
 *
 * The file named by MOVED_CLOCK holds two signed 64-bit integers in the machine's byte order, in nanoseconds:
 *   frozen_at   if not 0, the time is this, and stands still
 *   offset      else it is the machine's time plus this
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *settings;

__attribute__((constructor)) static void open_settings(void) {
    const char *path = getenv("MOVED_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *mapped = file < 0 ? MAP_FAILED : mmap(NULL, 16, PROT_READ, MAP_SHARED, file, 0);
    if (mapped == MAP_FAILED)
        abort(); /* a server on the machine's own clock would make tests pass or fail for the wrong reason */
    settings = mapped;
    close(file);
}

/* The system call itself: dlsym allocates memory, and an allocator may ask for the time before it can serve that. */
static int machine_time(clockid_t clock, struct timespec *time) {
    return (int)syscall(SYS_clock_gettime, clock, time);
}

static int moved_time(clockid_t clock, struct timespec *time) {
    int failed = machine_time(clock, time);
    if (failed || settings == NULL)
        return failed;
    int64_t frozen_at = settings[0];
    int64_t now = frozen_at ? frozen_at : time->tv_sec * INT64_C(1000000000) + time->tv_nsec + settings[1];
    time->tv_sec = now / 1000000000;
    time->tv_nsec = now % 1000000000;
    return 0;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)
        return moved_time(clock, time);
    return machine_time(clock, time);
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    struct timespec now;
    (void)zone;
    int failed = moved_time(CLOCK_REALTIME, &now);
    if (!failed) {
        time->tv_sec = now.tv_sec;
        time->tv_usec = now.tv_nsec / 1000;
    }
    return failed;
}

time_t time(time_t *result) {
    struct timespec now;
    moved_time(CLOCK_REALTIME, &now);
    if (result)
        *result = now.tv_sec;
    return now.tv_sec;
}
