/* Parses a response: status, chunks, and the time stamps of the tokens in the chunks. */
#include "streams.h"

static const char MARK[] = "sent_ns=";

/* Finds the time stamps in an event stream; one may be split across two reads. */
static void look_for_tokens(stream *s, const char *data, size_t size) {
    static char text[READ_BYTES + KEPT_BYTES];
    memcpy(text, s->kept, s->kept_size);
    memcpy(text + s->kept_size, data, size);
    char *end = text + s->kept_size + size, *from = text, *mark;
    while ((mark = memmem(from, end - from, MARK, sizeof MARK - 1))) {
        int64_t sent = 0;
        char *digit = mark + sizeof MARK - 1;
        for (; digit < end && *digit >= '0' && *digit <= '9'; digit++) sent = sent * 10 + *digit - '0';
        from = mark;
        if (digit == end) break;
        token(s, sent);
        from = digit;
    }
    if (!mark && (size_t)(end - from) > sizeof MARK - 2) from = end - (sizeof MARK - 2);
    s->kept_size = end - from < KEPT_BYTES ? end - from : 0;
    memcpy(s->kept, from, s->kept_size);
}

/* Parses the response head; returns its length in bytes. */
static size_t take_head(stream *s, const char *data, size_t size) {
    size_t before = s->head_size, more = size < HEAD_BYTES - 1 - before ? size : HEAD_BYTES - 1 - before;
    memcpy(s->head + before, data, more);
    s->head_size += more;
    s->head[s->head_size] = 0;
    char *end = strstr(s->head, "\r\n\r\n");
    if (!end) return more ? more : size; /* a head without an end is not heard out */
    int status = s->head_size > 12 ? atoi(s->head + 9) : 0;
    char *length = strcasestr(s->head, "\r\ncontent-length:");
    answered(s, status);
    s->is_in_chunks = strcasestr(s->head, "\r\ntransfer-encoding: chunked") != NULL;
    s->left = length ? strtoul(length + 17, NULL, 10) : 0;
    s->part = s->is_in_chunks ? SIZE : !length ? UNTIL_CLOSE : s->left ? DATA : OVER;
    return end + 4 - s->head - before;
}

void hear(stream *s, const char *data, size_t size) {
    while (size && s->part != OVER) {
        size_t taken = 1;
        switch (s->part) {
        case HEAD:
            taken = take_head(s, data, size);
            break;
        case SIZE: /* extensions are not expected */
            if (*data == '\n') s->part = s->left ? DATA : OVER;
            else if (*data != '\r') s->left = s->left * 16 + (*data <= '9' ? *data - '0' : (*data | 32) - 'a' + 10);
            break;
        case DATA:
            taken = size < s->left ? size : s->left;
            look_for_tokens(s, data, taken);
            if (!(s->left -= taken)) s->part = s->is_in_chunks ? AFTER_DATA : OVER;
            break;
        case AFTER_DATA:
            if (*data == '\n') s->part = SIZE;
            break;
        default:
            taken = size;
            look_for_tokens(s, data, size);
        }
        data += taken;
        size -= taken;
    }
}
