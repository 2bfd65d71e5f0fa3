/* A fake libnvidia-ml.so.1. Each call reports what the file $STAND_IN_NVML contains: see stand_in_nvml.py.
   The number behind a handle is 100 * card + 1 + part, with part 0 for the card itself and 1, 2, .. for MIG devices. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define UNINITIALIZED 1
#define INVALID_ARGUMENT 2
#define NOT_SUPPORTED 3
#define NO_PERMISSION 4
#define NOT_FOUND 6
#define DRIVER_NOT_LOADED 9
#define INSUFFICIENT_SIZE 7
#define LOST 15
#define UNKNOWN 999
#define GPUS 32
#define PROCESSES 64
#define FAULTS 16
#define MIB (1024ull * 1024)

typedef struct { unsigned pid; unsigned long long bytes; unsigned instance, compute; } process_t; /* as in NVML */
typedef struct {
    char uuid[96], bus[32], flags[128], name[96];
    int total, used, busy, celsius, milliwatts, major, minor;
    int pids, pid[PROCESSES], mib[PROCESSES], draws[PROCESSES];
    int parts, part[8];
} gpu_t;
typedef struct { char kind[16], call[64]; int value; } fault_t;
static struct {
    int cards, card[GPUS], gpus, faults, cuda, stale_until_init;
    char driver[80];
    gpu_t gpu[GPUS];
    fault_t fault[FAULTS];
} now;
int stand_in_inits; /* how often this process has initialised it */
static int open_inits, device = -1; /* inits without a shutdown; the device file that is open meanwhile */

static int is_alive(int pid) {
    char path[40], state = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *f = fopen(path, "r");
    if (!f) return 0;
    if (fscanf(f, "%*d (%*[^)]) %c", &state) != 1) state = 0;
    fclose(f);
    return state != 'Z' && state != 'X';
}

static void parse(FILE *f) {
    char line[512], word[16];
    int a, b;
    memset(&now, 0, sizeof now);
    while (fgets(line, sizeof line, f)) {
        gpu_t *g = &now.gpu[now.gpus], *last = now.gpus ? g - 1 : g;
        fault_t *fault = &now.fault[now.faults];
        if (sscanf(line, "driver %79s %d", now.driver, &now.cuda) == 2) continue;
        if (sscanf(line, "stale_until_init %d", &now.stale_until_init) == 1) continue;
        if (sscanf(line, "process %d %d", &a, &b) == 2 || sscanf(line, "drawing %d %d", &a, &b) == 2) {
            last->pid[last->pids] = a;
            last->draws[last->pids] = *line == 'd';
            last->mib[last->pids++] = b;
        } else if (sscanf(line, "%15s %95s %31s %d %d %d %d %d %d.%d %127s %95[^\n]",
                          word, g->uuid, g->bus, &g->total, &g->used, &g->busy, &g->celsius, &g->milliwatts,
                          &g->major, &g->minor, g->flags, g->name) == 12) {
            gpu_t *card = now.cards ? &now.gpu[now.card[now.cards - 1]] : NULL;
            if (!strcmp(word, "mig")) card->part[card->parts++] = now.gpus++;
            else now.card[now.cards++] = now.gpus++;
        } else if (sscanf(line, "%15s %63s %d", fault->kind, fault->call, &fault->value) == 3) now.faults++;
    }
}

/* Rereads the file if it was replaced; applies delays for this call and returns its error, if any. */
static int look(const char *call) {
    static struct stat before;
    struct stat is;
    const char *path = getenv("STAND_IN_NVML");
    if (!path || stat(path, &is)) return DRIVER_NOT_LOADED;
    if (is.st_ino != before.st_ino || is.st_mtim.tv_nsec != before.st_mtim.tv_nsec || is.st_mtime != before.st_mtime) {
        FILE *f = fopen(path, "r");
        if (!f) return DRIVER_NOT_LOADED;
        parse(f);
        fclose(f);
        before = is;
    }
    int code = open_inits || !strcmp(call, "nvmlInitWithFlags") ? 0 : UNINITIALIZED;
    for (fault_t *f = now.fault; f < now.fault + now.faults; f++) {
        if (strcmp(f->call, call) && strcmp(f->call, "all")) continue;
        if (!strcmp(f->kind, "delay")) usleep(f->value * 1000);
        else code = f->value;
    }
    return code;
}

static gpu_t *behind(void *handle) {
    long number = (long)handle - 1, card = number / 100, part = number % 100;
    if (card >= now.cards) return NULL;
    gpu_t *g = &now.gpu[now.card[card]];
    return part == 0 ? g : part <= g->parts ? &now.gpu[g->part[part - 1]] : NULL;
}

/* The error for this field of this device, or 0. A lost device needs `stale_until_init` initializations. */
static int refused(const char *call, void *handle, const char *unless, gpu_t **g) {
    int code = look(call);
    if (code) return code;
    if (!(*g = behind(handle))) return LOST;
    if (strstr((*g)->flags, "lost") || stand_in_inits < now.stale_until_init) return LOST;
    return unless && strstr((*g)->flags, unless) ? NOT_SUPPORTED : 0;
}
#define TELL(unless) gpu_t *g; int code = refused(__func__, d, unless, &g); if (code) return code

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    int code = look(__func__);
    if (code) return code;
    stand_in_inits++;
    if (!open_inits++) {
        char path[512];
        snprintf(path, sizeof path, "%s.device", getenv("STAND_IN_NVML"));
        device = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    }
    return 0;
}
int nvmlShutdown(void) {
    look(__func__);
    if (!open_inits) return UNINITIALIZED;
    if (!--open_inits) close(device);
    return 0;
}
const char *nvmlErrorString(int code) { (void)code; return "stand-in"; }
int nvmlSystemGetDriverVersion(char *v, unsigned n) {
    int code = look(__func__); if (!code) snprintf(v, n, "%s", now.driver); return code; }
int nvmlSystemGetCudaDriverVersion(int *v) { int code = look(__func__); *v = now.cuda; return code; }
int nvmlDeviceGetCount_v2(unsigned *n) { int code = look(__func__); *n = now.cards; return code; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **d) {
    int code = look(__func__);
    *d = (void *)(100l * i + 1);
    if (code || i >= (unsigned)now.cards) return code ? code : INVALID_ARGUMENT;
    if (strstr(behind(*d)->flags, "lost") || stand_in_inits < now.stale_until_init) return LOST;
    return strstr(behind(*d)->flags, "forbidden") ? NO_PERMISSION : 0;
}
int nvmlDeviceGetName(void *d, char *v, unsigned n) { TELL(NULL); snprintf(v, n, "%s", g->name); return 0; }
int nvmlDeviceGetUUID(void *d, char *v, unsigned n) { TELL(NULL); snprintf(v, n, "%s", g->uuid); return 0; }
int nvmlDeviceGetPciInfo_v3(void *d, char *v) { /* busId is the last of its fields, at byte 36 */
    TELL("no_pci"); snprintf(v + 36, 32, "%s", g->bus); return 0; }
int nvmlDeviceGetMemoryInfo(void *d, unsigned long long *v) {
    TELL("no_memory");
    if (strstr(g->flags, "memory_fails")) return UNKNOWN;
    v[0] = g->total * MIB;
    v[2] = g->used * MIB;
    for (int i = 0; i < g->pids; i++) v[2] += is_alive(g->pid[i]) ? g->mib[i] * MIB : 0;
    v[1] = v[0] - v[2];
    return 0;
}
int nvmlDeviceGetUtilizationRates(void *d, unsigned *v) { TELL("no_utilization"); v[0] = g->busy; v[1] = 0; return 0; }
int nvmlDeviceGetTemperatureV(void *d, int *v) {
    TELL("no_temperature"); if (strstr(g->flags, "old_temperature")) return 13; v[2] = g->celsius; return 0; }
int nvmlDeviceGetTemperature(void *d, int sensor, unsigned *v) {
    (void)sensor; TELL("no_temperature"); *v = g->celsius; return 0; }
int nvmlDeviceGetPowerUsage(void *d, unsigned *v) { TELL("no_power"); *v = g->milliwatts; return 0; }
int nvmlDeviceGetCudaComputeCapability(void *d, int *a, int *b) {
    TELL("no_capability"); *a = g->major; *b = g->minor; return 0; }
int nvmlDeviceGetAddressingMode(void *d, unsigned *v) { /* v[0] is the version of the struct */
    TELL(NULL); v[1] = strstr(g->flags, "ats") ? 2 : 0; return 0; }
int nvmlDeviceGetDisplayActive(void *d, int *v) {
    TELL("no_display"); *v = strstr(g->flags, "display") != NULL; return 0; }
int nvmlDeviceGetMigMode(void *d, unsigned *a, unsigned *b) {
    TELL("no_mig"); *a = *b = !!strstr(g->flags, "mig_mode"); return 0; }
int nvmlDeviceGetMaxMigDeviceCount(void *d, unsigned *n) { TELL(NULL); *n = 7; return 0; }
int nvmlDeviceGetMigDeviceHandleByIndex(void *d, unsigned i, void **part) {
    TELL(NULL); *part = (char *)d + i + 1; return i < (unsigned)g->parts ? 0 : NOT_FOUND; }
static int processes(void *d, int draws, unsigned *n, process_t *v) {
    gpu_t *g;
    int code = refused("nvmlDeviceGetComputeRunningProcesses_v3", d, "no_processes", &g);
    if (code) return code;
    process_t found[PROCESSES];
    unsigned room = *n, alive = 0;
    unsigned long long untold = strstr(g->flags, "no_process_bytes") ? ~0ull : 0;
    for (int i = 0; i < g->pids && !strstr(g->flags, "hidden_pids"); i++)
        if (g->draws[i] == draws && is_alive(g->pid[i]))
            found[alive++] = (process_t){g->pid[i], untold ? untold : g->mib[i] * MIB, ~0u, ~0u};
    *n = alive;
    if (!alive) return 0;
    if (!v || room < alive) return INSUFFICIENT_SIZE;
    memcpy(v, found, alive * sizeof *v);
    return 0;
}
int nvmlDeviceGetComputeRunningProcesses_v3(void *d, unsigned *n, process_t *v) { return processes(d, 0, n, v); }
int nvmlDeviceGetGraphicsRunningProcesses_v3(void *d, unsigned *n, process_t *v) { return processes(d, 1, n, v); }
