// A ggml backend that answers every question about memory as ggml-cuda does, and computes nothing.
//
// What ggml-cuda decides on the host (which operations it takes, how large a buffer it wants, what it keeps for fusion) is
// its own code, cut out of the source by bench/truth/cuda_functions.py. Only what surrounds that code is ours.
//
// STAND_IN_CUDA="2:24576,12288": number of devices, and MiB of each (the last one also of all that follow).
// STAND_IN_CUDA_CC=890: compute capability as ggml-cuda writes it.
#include "ggml-backend-impl.h"
#include "ggml-cpu.h"
#include "ggml-impl.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cinttypes>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <string>
#include <unordered_map>
#include <vector>

// ---- What the functions of ggml-cuda expect around them (common.cuh, b11549) ----

#define MATRIX_ROW_PADDING 512
#define FATTN_KQ_STRIDE 256
#define GGML_CUDA_USE_CUB 1
#define FLASH_ATTN_AVAILABLE 1
#define MOE_WEIGHTED_REDUCTION_MAX_EXPERTS 15
#define GGML_CUDA_CC_TURING 750
#define GGML_CUDA_CC_ADA_LOVELACE 890
#ifndef QK_K
#define QK_K 256
#endif

struct ggml_backend_cuda_device_context { int device; int op_offload_min_batch_size; };
struct ggml_backend_cuda_buffer_type_context { int device; std::string name; };
struct ggml_backend_cuda_context { int device; };

static constexpr int    MOST_DEVICES = 16;
static constexpr size_t SHARED_MEMORY_BYTES = 49152;  // per block, of every NVIDIA GPU
static constexpr size_t ALIGNMENT_BYTES = 128;
static constexpr size_t DEFAULT_MIB = 81920;
static constexpr int    OFFLOADED_BATCH = 32;  // GGML_OP_OFFLOAD_MIN_BATCH, unless the environment has it

struct cuda_info { struct { int cc; size_t smpb; } devices[MOST_DEVICES]; };

static cuda_info & ggml_cuda_info() {
    static cuda_info info = [] {
        const char * given = getenv("STAND_IN_CUDA_CC");
        cuda_info all;
        for (auto & device : all.devices) {
            device = { given ? atoi(given) : GGML_CUDA_CC_ADA_LOVELACE, SHARED_MEMORY_BYTES };
        }
        return all;
    }();
    return info;
}

static void ggml_cuda_set_device(int) {}
static bool turing_mma_available(int cc) { return cc >= GGML_CUDA_CC_TURING; }
static bool volta_mma_available(int cc) { return cc == 700; }
static bool amd_mfma_available(int) { return false; }
static bool amd_wmma_available(int) { return false; }

// Whether there is a kernel at all: of a build with the default GGML_CUDA_FA_QUANTS, where K and V have one type.
typedef void (*fattn_vec_case_t)();
static void any_kernel() {}
static fattn_vec_case_t ggml_cuda_get_fattn_vec_case(int64_t, ggml_type k, ggml_type v) {
    return k == v ? any_kernel : nullptr;
}

static bool ggml_backend_buft_is_cuda(ggml_backend_buffer_type_t type);

#pragma GCC diagnostic ignored "-Wunused-function"
#include "cuda_functions.inc"

// ---- Buffers: address space without memory. What is written to them is dropped, what is read from them is zero ----

struct reserved { void * base; size_t bytes; int device; };

static size_t used_bytes[MOST_DEVICES];
static std::vector<ggml_backend_buffer_t> live;

static int device_of(ggml_backend_buffer_type_t type) {
    return ((ggml_backend_cuda_buffer_type_context *) type->context)->device;
}

static void buffer_free(ggml_backend_buffer_t buffer) {
    auto * memory = (reserved *) buffer->context;
    munmap(memory->base, memory->bytes);
    live.erase(std::find(live.begin(), live.end(), buffer));
    used_bytes[memory->device] -= memory->bytes;
    delete memory;
}

static void * buffer_base(ggml_backend_buffer_t buffer) { return ((reserved *) buffer->context)->base; }
static void buffer_memset(ggml_backend_buffer_t, ggml_tensor *, uint8_t, size_t, size_t) {}
static void buffer_set(ggml_backend_buffer_t, ggml_tensor *, const void *, size_t, size_t) {}
static void buffer_get(ggml_backend_buffer_t, const ggml_tensor *, void * to, size_t, size_t bytes) { memset(to, 0, bytes); }
static bool buffer_copy(ggml_backend_buffer_t, const ggml_tensor *, ggml_tensor *) { return true; }
static void buffer_clear(ggml_backend_buffer_t, uint8_t) {}

static ggml_backend_buffer_i buffer_interface = {
    buffer_free, buffer_base, nullptr, buffer_memset, buffer_set, buffer_get, nullptr, nullptr, buffer_copy, buffer_clear,
    nullptr };

static const char * type_name(ggml_backend_buffer_type_t type) {
    return ((ggml_backend_cuda_buffer_type_context *) type->context)->name.c_str();
}

static bool ggml_backend_buft_is_cuda(ggml_backend_buffer_type_t type) { return type->iface.get_name == type_name; }

static ggml_backend_buffer_t type_allocate(ggml_backend_buffer_type_t type, size_t bytes) {
    const size_t reserved_bytes = std::max(bytes, ALIGNMENT_BYTES);
    void * base = mmap(nullptr, reserved_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) {
        return nullptr;
    }
    used_bytes[device_of(type)] += reserved_bytes;
    live.push_back(ggml_backend_buffer_init(type, buffer_interface, new reserved{ base, reserved_bytes, device_of(type) }, bytes));
    return live.back();
}

// Bytes of the buffers that there are on a device, by what the engine says that they are for.
size_t stand_in_bytes(int device, enum ggml_backend_buffer_usage usage) {
    size_t bytes = 0;
    for (const auto buffer : live) {
        bytes += device_of(buffer->buft) == device && buffer->usage == usage ? buffer->size : 0;
    }
    return bytes;
}

static size_t type_alignment(ggml_backend_buffer_type_t) { return ALIGNMENT_BYTES; }

// ggml_backend_cuda_buffer_type_get_alloc_size (ggml-cuda.cu, b11549)
static size_t type_tensor_bytes(ggml_backend_buffer_type_t type, const ggml_tensor * tensor) {
    size_t bytes = tensor->op == GGML_OP_FLASH_ATTN_EXT
        ? ggml_cuda_flash_attn_ext_get_alloc_size(device_of(type), tensor)
        : ggml_nbytes(tensor);
    const int64_t beyond = tensor->ne[0] % MATRIX_ROW_PADDING;
    if (ggml_is_quantized(tensor->type) && beyond != 0) {
        bytes += ggml_row_size(tensor->type, MATRIX_ROW_PADDING - beyond);
    }
    return bytes;
}

// Pinned RAM: the CPU's buffers under CUDA's name.
static const char * host_type_name(ggml_backend_buffer_type_t) { return "CUDA_Host"; }

static ggml_backend_buffer_t host_type_allocate(ggml_backend_buffer_type_t type, size_t bytes) {
    ggml_backend_buffer_t buffer = ggml_backend_buft_alloc_buffer(ggml_backend_cpu_buffer_type(), bytes);
    if (buffer) {
        buffer->buft = type;
    }
    return buffer;
}

// ---- Devices ----

struct device_facts { std::string name, bus; size_t total_bytes; };

static std::vector<device_facts>             facts;
static std::vector<ggml_backend_device>      devices;
static std::vector<ggml_backend_buffer_type> types;
static ggml_backend_buffer_type              host_type;
static ggml_backend_reg                      registry;

static int index_of(ggml_backend_dev_t device) { return ((ggml_backend_cuda_device_context *) device->context)->device; }
static const char * device_name(ggml_backend_dev_t device) { return facts[index_of(device)].name.c_str(); }
static const char * device_description(ggml_backend_dev_t) { return "stand-in"; }

static void device_memory(ggml_backend_dev_t device, size_t * free, size_t * total) {
    const int index = index_of(device);
    *total = facts[index].total_bytes;
    *free = *total - std::min(*total, used_bytes[index]);
}

static enum ggml_backend_dev_type device_type(ggml_backend_dev_t) { return GGML_BACKEND_DEVICE_TYPE_GPU; }

static void device_properties(ggml_backend_dev_t device, ggml_backend_dev_props * properties) {
    properties->name = device_name(device);
    properties->description = device_description(device);
    properties->type = GGML_BACKEND_DEVICE_TYPE_GPU;
    properties->device_id = facts[index_of(device)].bus.c_str();
    device_memory(device, &properties->memory_free, &properties->memory_total);
    // async and events: what pipeline parallelism, with its four copies of every input, depends on
    properties->caps = { /*async*/ true, /*host_buffer*/ true, /*buffer_from_host_ptr*/ false, /*events*/ true, true };
}

static ggml_backend_buffer_type_t device_buffer_type(ggml_backend_dev_t device) { return &types[index_of(device)]; }
static ggml_backend_buffer_type_t device_host_type(ggml_backend_dev_t) { return &host_type; }

static bool device_supports_type(ggml_backend_dev_t device, ggml_backend_buffer_type_t type) {
    return ggml_backend_buft_is_cuda(type) && type->device == device;
}

static bool device_offloads(ggml_backend_dev_t, const ggml_tensor * op) { return get_op_batch_size(op) >= OFFLOADED_BATCH; }
static ggml_backend_event_t device_event(ggml_backend_dev_t device) { return new ggml_backend_event{ device, nullptr }; }
static void device_event_free(ggml_backend_dev_t, ggml_backend_event_t event) { delete event; }
static void device_event_wait(ggml_backend_dev_t, ggml_backend_event_t) {}

// ---- A backend: only its graph_optimize does something ----

static const char * backend_name(ggml_backend_t backend) { return device_name(backend->device); }
static void backend_free(ggml_backend_t backend) {
    delete (ggml_backend_cuda_context *) backend->context;
    delete backend;
}
static void backend_set(ggml_backend_t, ggml_tensor *, const void *, size_t, size_t) {}
static void backend_get(ggml_backend_t, const ggml_tensor *, void * to, size_t, size_t bytes) { memset(to, 0, bytes); }
static bool backend_copy(ggml_backend_t, ggml_backend_t, const ggml_tensor *, ggml_tensor *) { return true; }
static void backend_wait(ggml_backend_t) {}
static ggml_status backend_compute(ggml_backend_t, ggml_cgraph *) { return GGML_STATUS_SUCCESS; }
static void backend_event(ggml_backend_t, ggml_backend_event_t) {}

static ggml_backend_t device_backend(ggml_backend_dev_t device, const char *) {
    static ggml_guid guid = { 0x73, 0x74, 0x61, 0x6e, 0x64, 0x2d, 0x69, 0x6e, 1, 2, 3, 4, 5, 6, 7, 8 };
    ggml_backend_i interface = {
        backend_name, backend_free, backend_set, backend_get, nullptr, nullptr, backend_copy, backend_wait, nullptr, nullptr,
        nullptr, nullptr, backend_compute, backend_event, backend_event, ggml_backend_cuda_graph_optimize };
    return new ggml_backend{ &guid, interface, device, new ggml_backend_cuda_context{ index_of(device) } };
}

// ---- Registration, before main: the engine's library is loaded first, as this one depends on it ----

static const char * registry_name(ggml_backend_reg_t) { return "CUDA"; }
static size_t registry_count(ggml_backend_reg_t) { return devices.size(); }
static ggml_backend_dev_t registry_device(ggml_backend_reg_t, size_t index) { return &devices[index]; }
static void * registry_function(ggml_backend_reg_t, const char *) { return nullptr; }

static std::vector<size_t> sizes_mib(const char * text) {
    std::vector<size_t> found;
    for (const char * at = strchr(text, ':'); at; at = strchr(at + 1, ',')) {
        found.push_back(strtoull(at + 1, nullptr, 10));
    }
    return found.empty() ? std::vector<size_t>{ DEFAULT_MIB } : found;
}

static void add_devices(int count, const std::vector<size_t> & mib) {
    const ggml_backend_device_i interface = {
        device_name, device_description, device_memory, device_type, device_properties, device_backend, device_buffer_type,
        device_host_type, nullptr, ggml_backend_cuda_device_supports_op, device_supports_type, device_offloads, device_event,
        device_event_free, device_event_wait };
    facts.resize(count);
    devices.resize(count);
    types.resize(count);
    for (int index = 0; index < count; index++) {
        const std::string number = std::to_string(index);
        facts[index] = { "CUDA" + number, "0000:0" + number + ":00.0", mib[std::min<size_t>(index, mib.size() - 1)] << 20 };
        devices[index] = { interface, &registry, new ggml_backend_cuda_device_context{ index, OFFLOADED_BATCH } };
        types[index] = { { type_name, type_allocate, nullptr, type_alignment, nullptr, type_tensor_bytes, nullptr, nullptr },
                         &devices[index], new ggml_backend_cuda_buffer_type_context{ index, "CUDA" + number } };
    }
}

int stand_in_devices() { return (int) devices.size(); }

struct registrar {
    registrar() {
        const char * wanted = getenv("STAND_IN_CUDA");
        const int count = wanted ? std::min(atoi(wanted), MOST_DEVICES) : 0;
        if (count == 0) {
            return;
        }
        add_devices(count, sizes_mib(wanted));
        registry = { GGML_BACKEND_API_VERSION, { registry_name, registry_count, registry_device, registry_function }, nullptr };
        auto * cpu = ggml_backend_cpu_buffer_type();
        host_type = { { host_type_name, host_type_allocate, nullptr, cpu->iface.get_alignment, nullptr,
                        cpu->iface.get_alloc_size, nullptr, cpu->iface.is_host }, &devices[0], nullptr };
        ggml_backend_register(&registry);
    }
};

static registrar the_registrar;
