/* Lets strace fail a call of one thread: loaded with LD_PRELOAD, it makes the SHIFT_THREADth thread to be created, or the first one
 * for 0, begin with SHIFT_COUNT calls number SHIFT_CALL that do nothing. strace counts the calls of each thread for itself, and a
 * number behind those is one that no other thread gets to. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

struct start {
    void *(*routine)(void *);
    void *argument;
};

static long number(const char *name) {
    const char *text = getenv(name);
    return text ? atol(text) : 0;
}

static void shift(void) {
    for (long count = number("SHIFT_COUNT"); count > 0; count--)
        syscall(number("SHIFT_CALL"), -1L, -1L, -1L, -1L, -1L, -1L);
}

__attribute__((constructor)) static void begin(void) {
    if (number("SHIFT_THREAD") == 0)
        shift();
}

static void *shifted(void *given) {
    struct start start = *(struct start *)given;
    free(given);
    shift();
    return start.routine(start.argument);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*routine)(void *), void *argument) {
    static atomic_long created;
    int (*create)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *) = dlsym(RTLD_NEXT, "pthread_create");
    struct start *start;
    if (atomic_fetch_add(&created, 1) + 1 != number("SHIFT_THREAD") || !(start = malloc(sizeof *start)))
        return create(thread, attributes, routine, argument);
    *start = (struct start){routine, argument};
    return create(thread, attributes, shifted, start);
}
