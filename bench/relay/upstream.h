/* Shared by upstream.c, which manages connections, and answers.c, which produces responses. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { PENDING_BYTES = 2048, NEVER_LISTED = -1 };
#define SECOND 1000000000LL

typedef struct {
    int fd, place; /* in `due`, while it streams */
    char *in;
    size_t in_size, in_room;
    char pending[PENDING_BYTES]; /* what the socket did not take */
    size_t pending_size;
    long tokens_left;
    int64_t interval;
    int closes;
} connection;

extern int streams; /* that have tokens to come */
extern const char *alias, *key;

int64_t now(void);
void list(connection *c, int64_t at); /* it streams, and its next token is due then */
void unlist(connection *c);
int say(connection *c, const char *data, size_t size);
int next_token(connection *c, const char *head);
int respond(connection *c, const char *head, const char *body); /* both end with NUL. False: the connection ends here */
