/* Opens event streams to bench/relay/upstream.c through the measured proxy and reports how they arrived.
 *
 *     streams PORT MODELS STREAMS RATE TOKENS RAMP WINDOW PROBING HOLD PROBES_PER_S
 *
 * Times are in seconds. STREAMS are opened evenly over the RAMP (0: all at once) and distributed over MODELS (a,b,c).
 * Once all of them run, or after ten more seconds, token latency is recorded for the WINDOW. During PROBING, additional
 * streams of one token measure the time to first token under load. Nothing is recorded during HOLD, in which memory can
 * be read. Each phase starts with a line "phase NAME"; the last line is JSON. Exits early once every stream has ended.
 *
 * A token's latency is the time from "sent_ns=N" in its text to the return of the recv() that brought it.
 */
#include "streams.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CONNECTIONS = 20000, STATUSES = 600, MODELS = 64, SETTLE_SECONDS = 10 };
static const int64_t SECOND = 1000000000;

typedef struct {
    float *ms;
    size_t count, room;
} samples;

static int events, port, open_now;
static struct { long opened, refused, ended, cut, tokens, statuses[STATUSES]; } seen[2]; /* streams, probes */
static samples latencies, first_tokens, probe_first_tokens;
static int64_t at; /* the last look at the clock */
static int notes_tokens;
static stream *unheard[CONNECTIONS]; /* probes that wait for their token */
static char *models[MODELS];
static int model_count;
static double rate;

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * SECOND + t.tv_nsec;
}

static void note(samples *all, int64_t ns) {
    if (all->count == all->room) all->ms = realloc(all->ms, (all->room = all->room * 2 + 1024) * sizeof *all->ms);
    all->ms[all->count++] = ns / 1e6;
}

static int ascending(const void *a, const void *b) {
    float left = *(const float *)a, right = *(const float *)b;
    return (left > right) - (left < right);
}

static void print_samples(const char *name, samples *all) {
    if (all->count) qsort(all->ms, all->count, sizeof *all->ms, ascending);
    printf("\"%s\":{\"count\":%zu", name, all->count);
    if (all->count)
        printf(",\"p50\":%.4f,\"p99\":%.4f,\"max\":%.4f", all->ms[all->count / 2], all->ms[all->count * 99 / 100],
               all->ms[all->count - 1]);
    printf("},");
}

void answered(stream *s, int status) {
    seen[s->is_probe].statuses[status > 0 && status < STATUSES ? status : 0]++;
}

void token(stream *s, int64_t sent) {
    seen[s->is_probe].tokens += notes_tokens || s->is_probe;
    if (!s->has_token) note(s->is_probe ? &probe_first_tokens : &first_tokens, at - s->began);
    else if (notes_tokens && !s->is_probe) note(&latencies, at - sent);
    s->has_token = 1;
    if (s->is_probe) unheard[s->number] = NULL;
}

static void end(stream *s, int was_cut) {
    if (was_cut) seen[s->is_probe].cut++;
    else seen[s->is_probe].ended++;
    if (s->is_probe) unheard[s->number] = NULL;
    open_now--;
    close(s->fd);
    free(s);
}

static void ask(stream *s) {
    char body[512], request[1024];
    int size = snprintf(body, sizeof body,
                        "{\"model\":\"%.100s\",\"stream\":true,\"max_tokens\":%ld,\"rate\":%g,"
                        "\"messages\":[{\"role\":\"user\",\"content\":\"Hello!\"}]}", s->model, s->tokens, rate);
    int whole = snprintf(request, sizeof request,
                         "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n"
                         "Accept: text/event-stream\r\nContent-Length: %d\r\n\r\n%s", port, size, body);
    (void)!send(s->fd, request, whole, MSG_NOSIGNAL); /* whoever closed by now is seen when reading */
    s->is_connected = 1;
}

/* On loopback a connection is established at once unless the listener's backlog is full. */
static void begin(int is_probe, long number, long tokens) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), yes = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    stream *s = calloc(1, sizeof *s);
    s->fd = fd;
    s->is_probe = is_probe;
    s->began = now();
    s->tokens = tokens;
    s->model = models[number % model_count];
    s->number = number % CONNECTIONS;
    if (is_probe) unheard[s->number] = s;
    seen[is_probe].opened++;
    open_now++;
    int failed = connect(fd, (struct sockaddr *)&to, sizeof to);
    if (failed && errno != EINPROGRESS) {
        seen[is_probe].refused++;
        end(s, 1);
        return;
    }
    struct epoll_event event = {.events = EPOLLOUT | EPOLLONESHOT, .data.ptr = s};
    epoll_ctl(events, EPOLL_CTL_ADD, fd, &event);
}

static void connected(stream *s) {
    ask(s);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = s};
    epoll_ctl(events, EPOLL_CTL_MOD, s->fd, &event);
}

static void receive(stream *s) {
    static char data[READ_BYTES];
    ssize_t got = recv(s->fd, data, sizeof data, 0);
    at = now();
    if (got < 0 && errno == EAGAIN) return;
    if (got > 0) hear(s, data, got);
    if (s->part == OVER) end(s, 0);
    else if (got <= 0) end(s, s->part != UNTIL_CLOSE || got < 0);
}

static void wait_and_receive(int64_t until) {
    struct epoll_event ready[512];
    int64_t left = until - now();
    int count = epoll_wait(events, ready, 512, left <= 0 ? 0 : (int)((left + 999999) / 1000000));
    for (int n = 0; n < count; n++) {
        stream *s = ready[n].data.ptr;
        if (s->is_connected) receive(s);
        else connected(s);
    }
}

static int64_t phase(const char *name, const char *seconds) {
    printf("phase %s\n", name);
    fflush(stdout);
    return atof(seconds) * SECOND;
}

static void print_counts(const char *name, int is_probe) {
    printf("\"%s\":{\"opened\":%ld,\"refused\":%ld,\"ended\":%ld,\"cut\":%ld,\"statuses\":{", name, seen[is_probe].opened,
           seen[is_probe].refused, seen[is_probe].ended, seen[is_probe].cut);
    const char *comma = "";
    for (int n = 0; n < STATUSES; n++) {
        if (seen[is_probe].statuses[n]) printf("%s\"%d\":%ld", comma, n, seen[is_probe].statuses[n]), comma = ",";
    }
    printf("}},");
}

int main(int count, char **words) {
    if (count != 11) return fprintf(stderr, "see the head of streams.c\n"), 2;
    port = atoi(words[1]);
    for (char *name = strtok(words[2], ","); name && model_count < MODELS; name = strtok(NULL, ",")) models[model_count++] = name;
    long wanted = atol(words[3]), tokens = atol(words[5]);
    double probe_rate = atof(words[10]);
    rate = atof(words[4]);
    struct rlimit files = {CONNECTIONS, CONNECTIONS};
    setrlimit(RLIMIT_NOFILE, &files);
    events = epoll_create1(0);

    int64_t began = now(), ramp = phase("ramp", words[6]);
    for (long n = 0; n < wanted; n++) {
        int64_t due = began + (wanted > 1 ? ramp * n / wanted : 0);
        while (now() < due) wait_and_receive(due);
        begin(0, n, tokens);
    }
    for (int64_t until = began + ramp; now() < until;) wait_and_receive(until);
    for (int64_t until = now() + SETTLE_SECONDS * SECOND; ramp && now() < until && (long)first_tokens.count < wanted;)
        wait_and_receive(now() + SECOND / 100);

    int64_t start = now(), until = start + phase("window", words[7]);
    notes_tokens = 1;
    while (now() < until && open_now) wait_and_receive(until);
    double window = (now() - start) / 1e9;
    notes_tokens = 0;
    long still_open = open_now;

    start = now(), until = start + phase("probing", words[8]);
    for (long n = 0; now() < until && open_now;) {
        int64_t due = start + (int64_t)((n + 0.5) * SECOND / (probe_rate > 0 ? probe_rate : 1e-9));
        if (now() >= due) begin(1, n++, 1);
        else wait_and_receive(due < until ? due : until);
    }
    until = now() + phase("hold", words[9]);
    while (now() < until && open_now) wait_and_receive(until);
    for (int n = 0; n < CONNECTIONS; n++) {
        if (unheard[n]) note(&probe_first_tokens, now() - unheard[n]->began); /* so long at least */
    }

    printf("{\"seconds\":%.4f,\"tokens\":%ld,\"open_at_the_end\":%ld,", window, seen[0].tokens, still_open);
    print_counts("streams", 0);
    print_counts("probes", 1);
    print_samples("latency_ms", &latencies);
    print_samples("first_token_ms", &first_tokens);
    print_samples("probe_first_token_ms", &probe_first_tokens);
    printf("\"models\":%d}\n", model_count);
}
