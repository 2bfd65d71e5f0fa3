/* The responses of the fake llama-server. */
#include "upstream.h"

static int answer(connection *c, const char *status, const char *body) {
    char text[PENDING_BYTES];
    int size = snprintf(text, sizeof text,
                        "HTTP/1.1 %s\r\nServer: llama.cpp\r\nContent-Type: application/json; charset=utf-8\r\n"
                        "Content-Length: %zu\r\n%s\r\n%s",
                        status, strlen(body), c->closes ? "Connection: close\r\n" : "Keep-Alive: timeout=5\r\n", body);
    return say(c, text, size) && !c->closes;
}

int next_token(connection *c, const char *head) {
    char event[768], text[1536];
    int is_last = --c->tokens_left == 0;
    int size = snprintf(event, sizeof event,
                        "data: {\"choices\":[{\"finish_reason\":%s,\"index\":0,\"delta\":{\"content\":\" sent_ns=%lld \"}}],"
                        "\"created\":1764200000,\"id\":\"chatcmpl-0123456789abcdefghijklmnopqrstuv\",\"model\":\"%.100s\","
                        "\"system_fingerprint\":\"b1-stand-in\",\"object\":\"chat.completion.chunk\"}\n\n",
                        is_last ? "\"stop\"" : "null", (long long)now(), alias);
    int whole = snprintf(text, sizeof text, "%s%x\r\n%s\r\n%s", head, size, event,
                         is_last ? "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n" : "");
    if (is_last) unlist(c);
    return say(c, text, whole) && !(is_last && c->closes);
}

static double number(const char *body, const char *name, double otherwise) {
    const char *found = strstr(body, name);
    if (!found) return otherwise;
    found += strlen(name);
    return strtod(found + strspn(found, " \t\n:"), NULL);
}

static int is_true(const char *body, const char *name) {
    const char *found = strstr(body, name);
    return found && !strncmp(found + strlen(name) + strspn(found + strlen(name), " \t\n:"), "true", 4);
}

static int generate(connection *c, const char *body) {
    char text[1024];
    if (!is_true(body, "\"stream\"")) {
        snprintf(text, sizeof text,
                 "{\"choices\":[{\"finish_reason\":\"stop\",\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":"
                 "\" word\"}}],\"created\":1764200000,\"model\":\"%.100s\",\"system_fingerprint\":\"b1-stand-in\","
                 "\"object\":\"chat.completion\",\"usage\":{\"completion_tokens\":1,\"prompt_tokens\":8,"
                 "\"total_tokens\":9},\"id\":\"chatcmpl-0123456789abcdefghijklmnopqrstuv\"}", alias);
        return answer(c, "200 OK", text);
    }
    c->tokens_left = number(body, "\"max_tokens\"", 16);
    c->interval = SECOND / number(body, "\"rate\"", 50);
    if (c->tokens_left < 1 || c->interval < 1) return answer(c, "400 Bad Request", "{\"error\":{\"code\":400}}");
    list(c, now() + c->interval);
    snprintf(text, sizeof text,
             "HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nContent-Type: text/event-stream\r\n"
             "Transfer-Encoding: chunked\r\n%s\r\n", c->closes ? "Connection: close\r\n" : "Keep-Alive: timeout=5\r\n");
    return next_token(c, text);
}

static int slots(connection *c) {
    char *text = malloc(32 * streams + 3), *end = text;
    *end++ = '[';
    for (int n = 0; n < streams; n++) end += sprintf(end, "%s{\"is_processing\":true}", n ? "," : "");
    strcpy(end, "]");
    char head[256];
    int size = sprintf(head, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n"
                             "Connection: close\r\n\r\n", strlen(text));
    send(c->fd, head, size, MSG_NOSIGNAL);
    send(c->fd, text, strlen(text), MSG_NOSIGNAL); /* a new socket's buffer holds a thousand slots */
    free(text);
    return 0;
}

int respond(connection *c, const char *head, const char *body) {
    char bearer[256];
    snprintf(bearer, sizeof bearer, "authorization: bearer %s\r\n", key);
    c->closes = strcasestr(head, "\r\nconnection: close") != NULL;
    if (!strncmp(head, "GET /health", 11)) return answer(c, "200 OK", "{\"status\":\"ok\"}");
    if (*key && !strcasestr(head, bearer)) return answer(c, "401 Unauthorized", "{\"error\":{\"code\":401}}");
    if (!strncmp(head, "GET /slots", 10)) return slots(c);
    if (!strncmp(head, "GET /props", 10)) return answer(c, "200 OK", "{\"total_slots\":1}");
    if (!strncmp(head, "POST ", 5)) return generate(c, body);
    return answer(c, "404 Not Found", "{\"error\":{\"code\":404}}");
}
