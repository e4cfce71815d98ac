/* SPDX-License-Identifier: Apache-2.0
 *
 * A simulated libnvidia-ml.so.1 for tests on machines without a GPU.
 *
 * The tests compile it and put it on LD_LIBRARY_PATH, so that the real nvidia-ml-py and the real
 * command line run against it. What it answers stands in the text file named by SIMULATED_NVML,
 * which is read again whenever it changes:
 *
 *     # a comment; one item a line, words parted by one blank, bytes and seconds are plain numbers
 *     driver 570.86.15
 *     cuda 12080                      12.8
 *     start 1790000000.5              Unix time of second 0; without it all steps lie in the past
 *     hide-processes                  process lists are empty, as inside a container
 *     error FUNCTION ERROR [SECONDS]  this function fails (from that second on); FUNCTION may be a
 *                                     glob; before the first device it holds for all of them
 *     device UUID                     begins a GPU; what follows is about it
 *     name NVIDIA H100 80GB HBM3      the rest of the line
 *     pci DOMAIN BUS DEVICE           hexadecimal
 *     total BYTES
 *     reserved BYTES
 *     used SECONDS BYTES              a step: so much is used by nobody in particular from then on
 *     utilization SECONDS PERCENT     likewise
 *     power SECONDS MILLIWATTS        likewise; the energy counter is its integral
 *     temperature SECONDS CELSIUS     likewise
 *     activity METRIC VALUE           what GPM says of it, by its number in nvml.h, whenever two samples are compared;
 *                                     a GPU without such a line has no GPM
 *     health NAME NUMBER              ecc, uncorrected, retired, remapped, pending, failed, throttle
 *                                     (a bit mask), persistence, slowdown; not supported when not given
 *     compute-mode NUMBER             0 default, 1 exclusive thread, 2 prohibited, 3 exclusive process
 *     process PID BYTES [NAME]        memory held as long as this process lives (0: for ever)
 *     foreign PID BYTES [NAME]        likewise by a process of another pid namespace, which is listed
 *                                     although there is no such process here
 *     mig                             MIG mode is on
 *     slice UUID                      begins a MIG slice of the GPU before it: name, total, ...
 *
 * A process takes memory for itself by appending "UUID PID BYTES" to SIMULATED_NVML.allocations;
 * the last line of a pid on a device counts. Like a driver, this forgets the memory of a process
 * that has ended, a zombie included. With SIMULATED_NVML_CALLS each call adds a line to that file.
 * Errors are the names in ERRORS below. Functions that a driver is too old to have are left out of
 * the symbol table when the library is linked.
 */
#define _GNU_SOURCE
#include <fnmatch.h>
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

enum { DEVICES = 64, STEPS = 64, METRICS = 128, PROCESSES = 64, FAULTS = 32, WORD = 128 };
enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4,
       NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, UNKNOWN = 999 };

static const struct { const char *name; int code; } ERRORS[] = {
    {"uninitialized", UNINITIALIZED}, {"invalid-argument", INVALID_ARGUMENT},
    {"not-supported", NOT_SUPPORTED}, {"no-permission", NO_PERMISSION}, {"not-found", NOT_FOUND},
    {"driver-not-loaded", 9}, {"timeout", 10}, {"function-not-found", 13}, {"gpu-is-lost", 15},
    {"reset-required", 16}, {"operating-system", 17}, {"version-mismatch", 18}, {"unknown", UNKNOWN},
};

typedef struct { double seconds, value; } Step;
typedef struct { Step at[STEPS]; int count; } Steps;
typedef struct { unsigned pid; unsigned long long bytes; char name[WORD]; int foreign; } Holder;
typedef struct { char function[WORD]; int code; double seconds; } Fault;
typedef struct {
    char uuid[WORD], name[WORD];
    unsigned domain, bus, slot;
    unsigned long long total, reserved;
    Steps used, utilization, power, temperature;
    Holder holders[PROCESSES];
    int holder_count;
    Fault faults[FAULTS];
    double activity[METRICS]; /* NaN: not given */
    int has_activity;
    double health[9]; /* in the order of HEALTH; negative: not given */
    int fault_count, mig, compute_mode, capability, parent; /* parent: -1 for a GPU, else the position of a slice's GPU */
} Device;

static const char *HEALTH[] = {"ecc", "uncorrected", "retired", "remapped", "pending", "failed", "throttle", "persistence", "slowdown"};
enum { ECC, UNCORRECTED, RETIRED, REMAPPED, PENDING, FAILED, THROTTLE, PERSISTENCE, SLOWDOWN, HEALTHS };

static Device devices[DEVICES];
static char handles[DEVICES]; /* the address of handles[i] is the handle of devices[i] */
static int device_count, hide_processes, initialised, cuda_version;
static char driver_version[WORD];
static double start;
static Fault faults[FAULTS];
static int fault_count;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static void unlock(const int *guard) { (void)guard; pthread_mutex_unlock(&mutex); }

/* ---- reading the file ---- */

static void copy(char *to, const char *from) { snprintf(to, WORD, "%s", from); }

static void bad(const char *line) {
    fprintf(stderr, "simulated driver: cannot read the line: %s\n", line);
    abort();
}

static void add_fault(const char *line, Fault *list, int *count) {
    char function[WORD], error[WORD];
    double seconds = 0;
    if (*count == FAULTS || sscanf(line, "%127s %127s %lf", function, error, &seconds) < 2) bad(line);
    for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
        if (!strcmp(ERRORS[i].name, error)) {
            copy(list[*count].function, function);
            list[*count].code = ERRORS[i].code;
            list[(*count)++].seconds = seconds;
            return;
        }
    bad(line);
}

static void add_health(const char *line, Device *device) {
    char name[WORD];
    double value = 0;
    if (sscanf(line, "%127s %lf", name, &value) != 2) bad(line);
    for (int i = 0; i < HEALTHS; i++)
        if (!strcmp(HEALTH[i], name)) {
            device->health[i] = value;
            return;
        }
    bad(line);
}

static void add_activity(const char *line, Device *device) {
    int metric;
    double value;
    if (sscanf(line, "%d %lf", &metric, &value) != 2 || metric < 0 || metric >= METRICS) bad(line);
    device->activity[metric] = value;
    device->has_activity = 1;
}

static void add_step(const char *line, Steps *steps) {
    Step step;
    if (steps->count == STEPS || sscanf(line, "%lf %lf", &step.seconds, &step.value) != 2) bad(line);
    steps->at[steps->count++] = step;
}

static void add_holder(Device *device, unsigned pid, unsigned long long bytes, const char *name, int foreign) {
    for (int i = 0; i < device->holder_count; i++)
        if (device->holders[i].pid == pid) {
            device->holders[i].bytes = bytes;
            return;
        }
    if (device->holder_count == PROCESSES) bad("too many processes");
    Holder *holder = &device->holders[device->holder_count++];
    holder->pid = pid;
    holder->bytes = bytes;
    copy(holder->name, name);
    holder->foreign = foreign;
}

static void read_line(char *line) {
    char key[WORD] = "", name[WORD] = "";
    int end = 0;
    unsigned pid;
    unsigned long long bytes;
    Device *device = device_count ? &devices[device_count - 1] : NULL;
    if (*line == '#' || sscanf(line, "%127s%n", key, &end) != 1) return;
    char *rest = line + end;
    while (*rest == ' ') rest++;
    if (!strcmp(key, "driver")) copy(driver_version, rest);
    else if (!strcmp(key, "cuda")) cuda_version = atoi(rest);
    else if (!strcmp(key, "start")) start = atof(rest);
    else if (!strcmp(key, "hide-processes")) hide_processes = 1;
    else if (!strcmp(key, "error")) add_fault(rest, device ? device->faults : faults, device ? &device->fault_count : &fault_count);
    else if (!strcmp(key, "device") || !strcmp(key, "slice")) {
        if (device_count == DEVICES || (!device && *key == 's')) bad(line);
        Device *next = &devices[device_count];
        memset(next, 0, sizeof *next);
        for (int i = 0; i < HEALTHS; i++) next->health[i] = -1;
        for (int i = 0; i < METRICS; i++) next->activity[i] = NAN;
        next->parent = *key == 'd' ? -1 : device->parent < 0 ? device_count - 1 : device->parent;
        copy(next->uuid, rest);
        device_count++;
    } else if (!device) bad(line);
    else if (!strcmp(key, "name")) copy(device->name, rest);
    else if (!strcmp(key, "pci")) { if (sscanf(rest, "%x %x %x", &device->domain, &device->bus, &device->slot) != 3) bad(line); }
    else if (!strcmp(key, "total")) device->total = strtoull(rest, NULL, 10);
    else if (!strcmp(key, "reserved")) device->reserved = strtoull(rest, NULL, 10);
    else if (!strcmp(key, "used")) add_step(rest, &device->used);
    else if (!strcmp(key, "utilization")) add_step(rest, &device->utilization);
    else if (!strcmp(key, "power")) add_step(rest, &device->power);
    else if (!strcmp(key, "temperature")) add_step(rest, &device->temperature);
    else if (!strcmp(key, "health")) add_health(rest, device);
    else if (!strcmp(key, "activity")) add_activity(rest, device);
    else if (!strcmp(key, "mig")) device->mig = 1;
    else if (!strcmp(key, "compute-mode")) device->compute_mode = atoi(rest);
    else if (!strcmp(key, "capability")) device->capability = atoi(rest);
    else if (!strcmp(key, "process") || !strcmp(key, "foreign")) {
        if (sscanf(rest, "%u %llu %127s", &pid, &bytes, name) < 2) bad(line);
        add_holder(device, pid, bytes, name, *key == 'f');
    } else bad(line);
}

static void read_allocation(const char *line) {
    char uuid[WORD];
    unsigned pid;
    unsigned long long bytes;
    if (sscanf(line, "%127s %u %llu", uuid, &pid, &bytes) != 3) bad(line);
    for (int i = 0; i < device_count; i++)
        if (!strcmp(devices[i].uuid, uuid)) add_holder(&devices[i], pid, bytes, "", 0);
}

static void each_line(const char *path, void (*take)(char *)) {
    char line[1024];
    FILE *file = fopen(path, "r");
    if (!file) return;
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = '\0';
        take(line);
    }
    fclose(file);
}

static void take_allocation(char *line) { read_allocation(line); }

static int changed(const char *path, struct stat *before) {
    struct stat now;
    if (stat(path, &now)) memset(&now, 0, sizeof now);
    int differs = now.st_ino != before->st_ino || now.st_size != before->st_size ||
                  now.st_mtim.tv_sec != before->st_mtim.tv_sec || now.st_mtim.tv_nsec != before->st_mtim.tv_nsec;
    *before = now;
    return differs;
}

static void refresh(void) {
    static struct stat scene_before, allocations_before;
    char allocations[4096];
    const char *scene = getenv("SIMULATED_NVML");
    if (!scene) scene = "/nonexistent";
    snprintf(allocations, sizeof allocations, "%s.allocations", scene);
    if (!(changed(scene, &scene_before) | changed(allocations, &allocations_before))) return;
    device_count = fault_count = hide_processes = 0;
    start = 0;
    cuda_version = 12080;
    copy(driver_version, "570.86.15");
    each_line(scene, read_line);
    each_line(allocations, take_allocation);
}

/* ---- what holds now ---- */

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec + now.tv_nsec / 1e9 - start;
}

static double value_now(const Steps *steps, double otherwise) {
    double now = seconds_now(), value = otherwise;
    for (int i = 0; i < steps->count && steps->at[i].seconds <= now; i++) value = steps->at[i].value;
    return value;
}

static double integral(const Steps *steps, double otherwise) {
    double now = seconds_now(), from = 0, value = otherwise, sum = 0;
    for (int i = 0; i < steps->count && steps->at[i].seconds <= now; i++) {
        sum += value * (steps->at[i].seconds - from);
        from = steps->at[i].seconds;
        value = steps->at[i].value;
    }
    return now > from ? sum + value * (now - from) : sum;
}

static int alive(unsigned pid) {
    char path[64], text[512];
    if (!pid) return 1;
    snprintf(path, sizeof path, "/proc/%u/stat", pid);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    size_t length = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[length] = '\0';
    char *name_end = strrchr(text, ')');
    return name_end && name_end[1] && name_end[2] != 'Z' && name_end[2] != 'X';
}

static int holds(const Holder *holder) { return holder->foreign || alive(holder->pid); }

static unsigned long long used_now(const Device *device) {
    unsigned long long used = (unsigned long long)value_now(&device->used, 0);
    for (int i = 0; i < device->holder_count; i++)
        if (holds(&device->holders[i])) used += device->holders[i].bytes;
    unsigned long long room = device->total > device->reserved ? device->total - device->reserved : 0;
    return used > room ? room : used;
}

/* ---- the beginning of every function ---- */

static int fault_of(const Fault *list, int count, const char *function) {
    for (int i = 0; i < count; i++)
        if (!fnmatch(list[i].function, function, 0) && seconds_now() >= list[i].seconds) return list[i].code;
    return SUCCESS;
}

static void note_call(const char *function) {
    const char *path = getenv("SIMULATED_NVML_CALLS");
    FILE *file = path ? fopen(path, "a") : NULL;
    if (!file) return;
    fprintf(file, "%s\n", function);
    fclose(file);
}

static int enter(const char *function) {
    note_call(function);
    refresh();
    if (!initialised && strncmp(function, "nvmlInit", 8)) return UNINITIALIZED;
    return fault_of(faults, fault_count, function);
}

static int enter_device(const char *function, const char *handle, Device **device) {
    int code = enter(function);
    if (code) return code;
    if (handle < handles || handle >= handles + device_count) return INVALID_ARGUMENT;
    *device = &devices[handle - handles];
    return fault_of((*device)->faults, (*device)->fault_count, function);
}

#define LOCKED __attribute__((cleanup(unlock), unused)) const int guard = pthread_mutex_lock(&mutex)
#define BEGIN LOCKED; const int fault = enter(__func__); if (fault) return fault
#define BEGIN_DEVICE LOCKED; Device *device = NULL; \
    const int fault = enter_device(__func__, handle, &device); if (fault) return fault
#define WHOLE_GPU_ONLY if (device->parent >= 0) return NOT_SUPPORTED

static int give(char *to, unsigned length, const char *text) {
    if (strlen(text) + 1 > length) return INSUFFICIENT_SIZE;
    memcpy(to, text, strlen(text) + 1);
    return SUCCESS;
}

/* ---- the library ---- */

int nvmlInitWithFlags(unsigned flags) { (void)flags; BEGIN; initialised++; return SUCCESS; }
int nvmlInit_v2(void) { BEGIN; initialised++; return SUCCESS; }
int nvmlShutdown(void) { BEGIN; initialised--; return SUCCESS; }

const char *nvmlErrorString(int code) {
    for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
        if (ERRORS[i].code == code) return ERRORS[i].name;
    return code ? "unknown" : "success";
}

int nvmlSystemGetDriverVersion(char *text, unsigned length) { BEGIN; return give(text, length, driver_version); }
int nvmlSystemGetCudaDriverVersion(int *version) { BEGIN; *version = cuda_version; return SUCCESS; }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { BEGIN; *version = cuda_version; return SUCCESS; }

int nvmlSystemGetProcessName(unsigned pid, char *text, unsigned length) {
    BEGIN;
    for (int i = 0; i < device_count; i++)
        for (int j = 0; j < devices[i].holder_count; j++)
            if (devices[i].holders[j].pid == pid && *devices[i].holders[j].name)
                return give(text, length, devices[i].holders[j].name);
    return NOT_FOUND;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    BEGIN;
    *count = 0;
    for (int i = 0; i < device_count; i++) *count += devices[i].parent < 0;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, char **handle) {
    BEGIN;
    for (int i = 0; i < device_count; i++)
        if (devices[i].parent < 0 && index-- == 0) {
            *handle = &handles[i];
            return fault_of(devices[i].faults, devices[i].fault_count, __func__);
        }
    return INVALID_ARGUMENT;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, char **handle) {
    BEGIN;
    for (int i = 0; i < device_count; i++)
        if (!strcmp(devices[i].uuid, uuid)) {
            *handle = &handles[i];
            return SUCCESS;
        }
    return NOT_FOUND;
}

int nvmlDeviceGetUUID(char *handle, char *text, unsigned length) { BEGIN_DEVICE; return give(text, length, device->uuid); }
int nvmlDeviceGetName(char *handle, char *text, unsigned length) { BEGIN_DEVICE; return give(text, length, device->name); }

int nvmlDeviceGetIndex(char *handle, unsigned *index) {
    BEGIN_DEVICE;
    WHOLE_GPU_ONLY;
    *index = 0;
    for (int i = 0; &devices[i] != device; i++) *index += devices[i].parent < 0;
    return SUCCESS;
}

struct pci { char legacy[16]; unsigned domain, bus, slot, device_id, subsystem_id; char bus_id[32]; };

int nvmlDeviceGetPciInfo_v3(char *handle, struct pci *pci) {
    BEGIN_DEVICE;
    WHOLE_GPU_ONLY;
    memset(pci, 0, sizeof *pci);
    pci->domain = device->domain;
    pci->bus = device->bus;
    pci->slot = device->slot;
    snprintf(pci->bus_id, sizeof pci->bus_id, "%08X:%02X:%02X.0", device->domain, device->bus, device->slot);
    snprintf(pci->legacy, sizeof pci->legacy, "%04X:%02X:%02X.0", device->domain & 0xffff, device->bus & 0xff, device->slot & 0xff);
    return SUCCESS;
}

struct memory { unsigned long long total, free, used; };
struct memory_v2 { unsigned version; unsigned long long total, reserved, free, used; };

/* The first version counts what the driver keeps for itself as used, the second tells it apart. */
int nvmlDeviceGetMemoryInfo(char *handle, struct memory *memory) {
    BEGIN_DEVICE;
    if (device->mig) return NO_PERMISSION;
    memory->total = device->total;
    memory->used = used_now(device) + (device->total ? device->reserved : 0);
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(char *handle, struct memory_v2 *memory) {
    BEGIN_DEVICE;
    if (device->mig) return NO_PERMISSION;
    if (memory->version != 0x02000028) return 25; /* argument version mismatch */
    memory->total = device->total;
    memory->reserved = device->total ? device->reserved : 0;
    memory->used = used_now(device);
    memory->free = memory->total - memory->reserved - memory->used;
    return SUCCESS;
}

struct utilization { unsigned gpu, memory; };

int nvmlDeviceGetUtilizationRates(char *handle, struct utilization *utilization) {
    BEGIN_DEVICE;
    WHOLE_GPU_ONLY;
    if (device->mig) return NOT_SUPPORTED;
    utilization->gpu = (unsigned)value_now(&device->utilization, 0);
    utilization->memory = 0;
    return SUCCESS;
}

int nvmlDeviceGetPowerUsage(char *handle, unsigned *milliwatts) {
    BEGIN_DEVICE;
    WHOLE_GPU_ONLY;
    *milliwatts = (unsigned)value_now(&device->power, 60000);
    return SUCCESS;
}

int nvmlDeviceGetTotalEnergyConsumption(char *handle, unsigned long long *millijoules) {
    BEGIN_DEVICE;
    WHOLE_GPU_ONLY;
    *millijoules = (unsigned long long)integral(&device->power, 60000);
    return SUCCESS;
}

int nvmlDeviceGetTemperature(char *handle, int sensor, unsigned *celsius) {
    BEGIN_DEVICE;
    WHOLE_GPU_ONLY;
    if (sensor) return INVALID_ARGUMENT;
    *celsius = (unsigned)value_now(&device->temperature, 35);
    return SUCCESS;
}

/* ---- health: what was not given is not supported ---- */

#define HEALTH_OF(name) \
    BEGIN_DEVICE; \
    WHOLE_GPU_ONLY; \
    if (device->health[name] < 0) return NOT_SUPPORTED

int nvmlDeviceGetEccMode(char *handle, unsigned *current, unsigned *pending) { HEALTH_OF(ECC); *current = *pending = (unsigned)device->health[ECC]; return SUCCESS; }
int nvmlDeviceGetTotalEccErrors(char *handle, int kind, int counter, unsigned long long *count) { HEALTH_OF(UNCORRECTED); *count = kind == 1 && !counter ? (unsigned long long)device->health[UNCORRECTED] : 0; return SUCCESS; }
int nvmlDeviceGetTemperatureThreshold(char *handle, int kind, unsigned *celsius) { HEALTH_OF(SLOWDOWN); if (kind != 1) return NOT_SUPPORTED; *celsius = (unsigned)device->health[SLOWDOWN]; return SUCCESS; }
int nvmlDeviceGetCurrentClocksThrottleReasons(char *handle, unsigned long long *mask) { HEALTH_OF(THROTTLE); *mask = (unsigned long long)device->health[THROTTLE]; return SUCCESS; }
int nvmlDeviceGetPersistenceMode(char *handle, unsigned *mode) { HEALTH_OF(PERSISTENCE); *mode = (unsigned)device->health[PERSISTENCE]; return SUCCESS; }

int nvmlDeviceGetRetiredPages(char *handle, int cause, unsigned *count, unsigned long long *pages) {
    HEALTH_OF(RETIRED);
    unsigned found = cause ? 0 : (unsigned)device->health[RETIRED], room = *count;
    *count = found;
    if (found > room) return INSUFFICIENT_SIZE;
    for (unsigned i = 0; pages && i < found; i++) pages[i] = 0x1000ull * (i + 1);
    return SUCCESS;
}

int nvmlDeviceGetRemappedRows(char *handle, unsigned *correctable, unsigned *uncorrectable, unsigned *pending, unsigned *failed) {
    HEALTH_OF(REMAPPED);
    *correctable = (unsigned)device->health[REMAPPED];
    *uncorrectable = 0;
    *pending = device->health[PENDING] > 0;
    *failed = device->health[FAILED] > 0;
    return SUCCESS;
}

struct process { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; };

static int list_processes(const Device *device, unsigned *count, struct process *list) {
    unsigned room = *count, found = 0;
    for (int i = 0; i < device->holder_count && !hide_processes; i++) {
        const Holder *holder = &device->holders[i];
        if (!holder->pid || !holder->bytes || !holds(holder)) continue;
        if (list && found < room) list[found] = (struct process){holder->pid, holder->bytes, ~0u, ~0u};
        found++;
    }
    *count = found;
    return found > room ? INSUFFICIENT_SIZE : SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v2(char *handle, unsigned *count, struct process *list) { BEGIN_DEVICE; return list_processes(device, count, list); }
int nvmlDeviceGetComputeRunningProcesses_v3(char *handle, unsigned *count, struct process *list) { BEGIN_DEVICE; return list_processes(device, count, list); }

int nvmlDeviceGetComputeMode(char *handle, unsigned *mode) { BEGIN_DEVICE; WHOLE_GPU_ONLY; *mode = (unsigned)device->compute_mode; return SUCCESS; }
int nvmlDeviceGetCudaComputeCapability(char *handle, int *major, int *minor) { BEGIN_DEVICE; *major = device->capability / 10; *minor = device->capability % 10; return SUCCESS; }

int nvmlDeviceGetMigMode(char *handle, unsigned *current, unsigned *pending) {
    BEGIN_DEVICE;
    WHOLE_GPU_ONLY;
    *current = *pending = (unsigned)device->mig;
    return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(char *handle, unsigned *count) { BEGIN_DEVICE; *count = device->mig ? 7 : 0; return SUCCESS; }

int nvmlDeviceGetMigDeviceHandleByIndex(char *handle, unsigned index, char **slice) {
    BEGIN_DEVICE;
    for (int i = 0; i < device_count; i++)
        if (device->mig && devices[i].parent == device - devices && index-- == 0) {
            *slice = &handles[i];
            return SUCCESS;
        }
    return NOT_FOUND;
}

int nvmlDeviceIsMigDeviceHandle(char *handle, unsigned *is_slice) { BEGIN_DEVICE; *is_slice = device->parent >= 0; return SUCCESS; }

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(char *handle, char **parent) {
    BEGIN_DEVICE;
    if (device->parent < 0) return INVALID_ARGUMENT;
    *parent = &handles[device->parent];
    return SUCCESS;
}

/* ---- GPM: a sample holds where it was taken, and the counters say at any time what the file says ---- */

struct gpm_support { unsigned version, supported; };
struct gpm_metric { unsigned id; int code; double value; const char *names[3]; };
struct gpm_request { unsigned version, count; Device **before, **after; struct gpm_metric metrics[]; };

int nvmlGpmQueryDeviceSupport(char *handle, struct gpm_support *support) { BEGIN_DEVICE; WHOLE_GPU_ONLY; support->supported = (unsigned)device->has_activity; return SUCCESS; }
int nvmlGpmSampleAlloc(Device ***sample) { BEGIN; return (*sample = calloc(1, sizeof **sample)) ? SUCCESS : UNKNOWN; }
int nvmlGpmSampleFree(Device **sample) { BEGIN; free(sample); return SUCCESS; }
int nvmlGpmSampleGet(char *handle, Device **sample) { BEGIN_DEVICE; WHOLE_GPU_ONLY; if (!device->has_activity) return NOT_SUPPORTED; *sample = device; return SUCCESS; }

int nvmlGpmMetricsGet(struct gpm_request *request) {
    BEGIN;
    if (!*request->before || *request->before != *request->after) return INVALID_ARGUMENT;
    for (unsigned i = 0; i < request->count; i++) {
        struct gpm_metric *metric = &request->metrics[i];
        metric->value = metric->id < METRICS ? (*request->after)->activity[metric->id] : NAN;
        metric->code = isnan(metric->value) ? NOT_SUPPORTED : SUCCESS;
    }
    return SUCCESS;
}
