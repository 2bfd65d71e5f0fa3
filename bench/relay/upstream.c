/* A fake llama-server that computes nothing: the upstream of bench.relay, fast enough never to be the bottleneck.
 *
 * It accepts llama-server's command line (--help, --version, --port, --alias; other options are ignored) and its
 * routes: /health, /slots, any POST; /props and everything else require the key in LLAMA_API_KEY. A POST returns a small
 * chat completion, or with "stream": true an event stream of "max_tokens" tokens, "rate" of them per second. Each token
 * is one chunk with its send time in the text ("sent_ns=N", CLOCK_MONOTONIC), so that the reader can compute its
 * latency. The first token is sent immediately. STAND_IN_CORE pins the process to a core.
 *
 * One thread, one epoll; a timerfd wakes it when the next token is due.
 */
#include "upstream.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { CONNECTIONS = 20000, FIRST_BYTES = 4096, MOST_BYTES = 64 << 20 };
static const int64_t NEVER = INT64_MAX;

int streams;
const char *alias = "stand-in", *key = "";
static int events, timer;
static int64_t due[CONNECTIONS]; /* of the streams, in no order: to look through a thousand takes a microsecond */
static connection *streaming[CONNECTIONS];

int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * SECOND + t.tv_nsec;
}

void list(connection *c, int64_t at) {
    c->place = streams++;
    streaming[c->place] = c;
    due[c->place] = at;
}

void unlist(connection *c) {
    if (c->place == NEVER_LISTED) return;
    streaming[c->place] = streaming[--streams];
    due[c->place] = due[streams];
    streaming[c->place]->place = c->place;
    c->place = NEVER_LISTED;
}

static void drop(connection *c) {
    unlist(c);
    close(c->fd);
    free(c->in);
    free(c);
}

static void want(connection *c, uint32_t what) {
    struct epoll_event event = {.events = what, .data.ptr = c};
    epoll_ctl(events, EPOLL_CTL_MOD, c->fd, &event);
}

/* Sends; false if the client disconnected. Bytes the socket does not accept are queued, and later tokens behind them. */
int say(connection *c, const char *data, size_t size) {
    ssize_t sent = send(c->fd, data, size, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) return 0;
    if (sent < 0) sent = 0;
    if ((size_t)sent == size) return 1;
    if (size - sent > PENDING_BYTES) return 0;
    c->pending_size = size - sent;
    memcpy(c->pending, data + sent, c->pending_size);
    want(c, EPOLLIN | EPOLLOUT);
    return 1;
}

/* Answers the buffered request if it is complete. */
static int serve(connection *c) {
    char *end = c->place == NEVER_LISTED && !c->pending_size ? strstr(c->in, "\r\n\r\n") : NULL;
    if (!end) return 1;
    end[2] = 0;
    char *length = strcasestr(c->in, "\r\ncontent-length:");
    size_t head = end + 4 - c->in, body = length ? strtoul(length + 17, NULL, 10) : 0;
    if (c->in_size < head + body) {
        end[2] = '\r';
        return 1;
    }
    char after = c->in[head + body];
    c->in[head + body] = 0;
    if (!respond(c, c->in, c->in + head)) return 0;
    c->in[head + body] = after;
    c->in_size -= head + body;
    memmove(c->in, c->in + head + body, c->in_size + 1);
    return 1;
}

static int read_more(connection *c) {
    if (c->in_room - c->in_size < FIRST_BYTES / 2) {
        if (c->in_room >= MOST_BYTES) return 0;
        c->in = realloc(c->in, c->in_room *= 2);
    }
    ssize_t got = recv(c->fd, c->in + c->in_size, c->in_room - c->in_size - 1, 0);
    if (got <= 0) return got < 0 && errno == EAGAIN;
    c->in_size += got;
    c->in[c->in_size] = 0;
    return serve(c);
}

static int write_more(connection *c) {
    ssize_t sent = send(c->fd, c->pending, c->pending_size, MSG_NOSIGNAL);
    if (sent < 0) return errno == EAGAIN;
    c->pending_size -= sent;
    memmove(c->pending, c->pending + sent, c->pending_size);
    if (c->pending_size) return 1;
    want(c, EPOLLIN);
    if (c->place != NEVER_LISTED) due[c->place] = now();
    return c->place != NEVER_LISTED || !c->closes;
}

/* Sends the tokens that are due; returns when the next one is. */
static int64_t say_tokens(void) {
    int64_t at = now(), next = NEVER;
    for (int n = 0; n < streams;) {
        connection *c = streaming[n];
        if (due[n] <= at && c->pending_size) due[n] = NEVER;
        if (due[n] <= at) {
            due[n] += c->interval;
            int is_last = c->tokens_left == 1;
            if (!next_token(c, "")) {
                drop(c);
                continue;
            }
            if (is_last) continue;
        }
        if (due[n] < next) next = due[n];
        n++;
    }
    return next;
}

static void wake_at(int64_t at) {
    static int64_t set;
    if (at == set) return;
    set = at;
    struct itimerspec when = {{0, 0}, {0, 0}};
    if (at != NEVER) when.it_value = (struct timespec){at / SECOND, at % SECOND};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
}

static void take_in(int listener) {
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
        int yes = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        connection *c = calloc(1, sizeof *c);
        *c = (connection){.fd = fd, .place = NEVER_LISTED, .in = calloc(1, FIRST_BYTES), .in_room = FIRST_BYTES};
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(events, EPOLL_CTL_ADD, fd, &event);
    }
}

static int listen_on(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), yes = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(fd, (struct sockaddr *)&at, size) || listen(fd, 4096)) {
        fprintf(stderr, "couldn't bind HTTP server socket, port: %d\n", port);
        exit(1);
    }
    getsockname(fd, (struct sockaddr *)&at, &size);
    fprintf(stderr, "main: HTTP server is listening, hostname: 127.0.0.1, port: %d\n", ntohs(at.sin_port));
    return fd;
}

static void help(const char *name) {
    printf("usage: %s [options]\n\n", name);
    const char *options[] = {"-m,    --model FNAME", "-a,    --alias STRING", "-c,    --ctx-size N", "-np,   --parallel N",
                             "       --host HOST", "       --port PORT", "       --slots", "       --metrics"};
    for (size_t n = 0; n < sizeof options / sizeof *options; n++) printf("%-32staken, and of no effect but its name\n", options[n]);
}

int main(int count, char **words) {
    int port = 8080;
    for (int n = 1; n < count; n++) {
        if (!strcmp(words[n], "--help")) return help(words[0]), 0;
        if (!strcmp(words[n], "--version")) return fprintf(stderr, "version: 1 (stand-in)\n"), 0;
        if (!strcmp(words[n], "--port") && n + 1 < count) port = atoi(words[n + 1]);
        if (!strcmp(words[n], "--alias") && n + 1 < count) alias = words[n + 1];
    }
    if (getenv("LLAMA_API_KEY")) key = getenv("LLAMA_API_KEY");
    if (getenv("STAND_IN_CORE")) {
        cpu_set_t core;
        CPU_ZERO(&core);
        CPU_SET(atoi(getenv("STAND_IN_CORE")), &core);
        sched_setaffinity(0, sizeof core, &core);
    }
    struct rlimit files = {CONNECTIONS, CONNECTIONS};
    setrlimit(RLIMIT_NOFILE, &files);
    events = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    int listener = listen_on(port);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &listener};
    epoll_ctl(events, EPOLL_CTL_ADD, listener, &event);
    event.data.ptr = &timer;
    epoll_ctl(events, EPOLL_CTL_ADD, timer, &event);
    for (;;) {
        struct epoll_event seen[512];
        int ready = epoll_wait(events, seen, 512, -1);
        for (int n = 0; n < ready; n++) {
            connection *c = seen[n].data.ptr;
            uint64_t expirations;
            if (seen[n].data.ptr == &listener) take_in(listener);
            else if (seen[n].data.ptr == &timer) (void)!read(timer, &expirations, sizeof expirations);
            else if (seen[n].events & EPOLLOUT ? !write_more(c) : !read_more(c)) drop(c);
        }
        wake_at(say_tokens());
    }
}
