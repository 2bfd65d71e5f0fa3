/* Shared by streams.c, which opens and counts streams, and hearing.c, which parses responses. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { READ_BYTES = 65536, HEAD_BYTES = 4096, KEPT_BYTES = 40 };
enum part { HEAD, SIZE, DATA, AFTER_DATA, UNTIL_CLOSE, OVER };

typedef struct {
    int fd, is_probe, is_connected, has_token;
    long number;
    const char *model;
    long tokens;                   /* to ask for */
    int64_t began;
    enum part part;
    size_t left;                   /* of a chunk, or of a body that is not in chunks */
    int is_in_chunks;
    char head[HEAD_BYTES];
    size_t head_size;
    char kept[KEPT_BYTES];         /* the end of what was read, where a mark may have begun */
    size_t kept_size;
} stream;

void hear(stream *s, const char *data, size_t size); /* of an answer's bytes the next ones, at most READ_BYTES */
void answered(stream *s, int status);                /* called by it when the head is there, */
void token(stream *s, int64_t sent);                 /* and for each token */
