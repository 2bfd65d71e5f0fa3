// Prints how many bytes llama.cpp would take on each device, for the arguments of a llama-server. Nothing is allocated.
//
// It does with the arguments what llama-server does before it loads (tools/server, b11549), and asks the engine's own
// accounting, common_get_device_memory_data (with --split-mode tensor: what it reserves; no companions). One line of JSON, all figures in bytes:
//   {"devices": {"CUDA0": [weights, context, compute], ..., "host": [...]},
//    "draft": {"CUDA0": [...], ...}, "projector": {"CUDA0": bytes}, "adapters": {"CUDA0": bytes}}
// A function of a library, called by bench/truth/run.py's child: the engine's library wants a Python around it.
#include "arg.h"
#include "common.h"
#include "fit.h"
#include "ggml-backend.h"
#include "llama-ext.h"
#include "llama-model-loader.h"
#include "llama.h"
#include "log.h"
#include "mtmd.h"
#include "speculative.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

using device_list = std::vector<ggml_backend_dev_t>;

struct measured { device_list devices; common_device_memory_data_vec items; uint32_t layers = 0, trained_context = 0, experts = 0; };

int stand_in_devices();

// Without GPUs everything is the host's, also what common_get_device_memory_data leaves out: weights in the order that
// the CPU's kernels like have a buffer type of their own, which is no host memory by its own account.
static measured measure_on_cpu(const std::string & path, llama_model_params model_params,
                               const llama_context_params & context_params) {
    model_params.no_alloc = true;
    model_params.load_mode = LLAMA_LOAD_MODE_NONE;
    llama_model * model = llama_model_load_from_file(path.c_str(), model_params);
    llama_context * context = model ? llama_init_from_model(model, context_params) : nullptr;
    if (!context) {
        throw std::runtime_error(model ? "failed to create llama_context from model" : "failed to load model");
    }
    measured found;
    found.trained_context = llama_model_n_ctx_train(model);
    found.items.resize(1);
    auto & host = found.items[0];
    for (const auto & [type, bytes] : llama_get_memory_breakdown(context)) {
        host.model += bytes.model;
        host.context += bytes.context;
        host.compute += bytes.compute;
    }
    return found;
}

static measured measure(const std::string & path, const llama_model_params & model, const llama_context_params & context) {
    if (stand_in_devices() == 0) {
        return measure_on_cpu(path, model, context);
    }
    measured found;
    found.items = common_get_device_memory_data(path.c_str(), &model, &context, found.devices, found.layers,
                                                found.trained_context, found.experts, GGML_LOG_LEVEL_ERROR);
    return found;
}

// ---- Tensor parallelism: the accounting sees one device, so the model is loaded, onto devices that only reserve ----

size_t stand_in_bytes(int device, enum ggml_backend_buffer_usage usage);

// In place of the engine's own: this library is searched first, and there is nothing in the file.
bool llama_model_loader::load_all_data(ggml_context *, llama_buf_map &, llama_mlocks *, llama_progress_callback, void *) {
    return true;
}

struct loaded { std::map<std::string, std::vector<size_t>> devices; };

static loaded measure_loaded(const std::string & path, llama_model_params model_params,
                             const llama_context_params & context_params) {
    model_params.load_mode = LLAMA_LOAD_MODE_NONE;  // a mapped tensor gets its buffer in load_all_data
    llama_model * model = llama_model_load_from_file(path.c_str(), model_params);
    llama_context * context = model ? llama_init_from_model(model, context_params) : nullptr;
    if (!context) {
        throw std::runtime_error(model ? "failed to create llama_context from model" : "failed to load model");
    }
    loaded found;
    for (int i = 0; i < stand_in_devices(); i++) {
        found.devices["CUDA" + std::to_string(i)] = { stand_in_bytes(i, GGML_BACKEND_BUFFER_USAGE_WEIGHTS),
                                                      stand_in_bytes(i, GGML_BACKEND_BUFFER_USAGE_ANY),
                                                      stand_in_bytes(i, GGML_BACKEND_BUFFER_USAGE_COMPUTE) };
    }
    auto & host = found.devices["host"] = { 0, 0, 0 };
    for (const auto & [type, bytes] : llama_get_memory_breakdown(context)) {
        if (ggml_backend_buft_is_host(type)) {
            host = { host[0] + bytes.model, host[1] + bytes.context, host[2] + bytes.compute };
        }
    }
    return found;
}

// ---- What llama-server makes of its arguments ----

// server.cpp:llama_server
static void apply_server_defaults(common_params & params) {
    if (params.embedding && params.n_batch > params.n_ubatch) {
        params.n_batch = params.n_ubatch;
    }
    if (params.n_parallel < 0) {
        params.n_parallel = 4;
        params.kv_unified = true;
    }
    if (params.kv_unified_per_slot > 0 && params.n_ctx == 0) {
        params.n_ctx = params.n_parallel * params.kv_unified_per_slot;
    }
}

// server-context.cpp:server_output_limits
static void apply_output_limits(common_params & params) {
    const bool pools = params.pooling_type != LLAMA_POOLING_TYPE_UNSPECIFIED && params.pooling_type != LLAMA_POOLING_TYPE_NONE;
    if (params.embedding || pools) {
        params.n_outputs_max = params.n_batch;
        params.n_outputs_max_per_seq = 1;
        return;
    }
    const auto limits = common_speculative_get_output_limits(params.n_batch, params.n_parallel,
                                                             common_speculative_n_max(&params.speculative));
    params.n_outputs_max = std::max<int32_t>(1, limits.total);
    params.n_outputs_max_per_seq = std::max<int32_t>(1, limits.per_seq);
}

static bool drafts_by(const common_params & params, common_speculative_type type) {
    const auto & types = params.speculative.types;
    return std::find(types.begin(), types.end(), type) != types.end();
}

static bool drafts_by_mtp(const common_params & params) {
    return drafts_by(params, COMMON_SPECULATIVE_TYPE_DRAFT_MTP);
}

// ---- Companions ----

// A head has no context without that of its model (llama-context.cpp, ctx_other).
static llama_context * context_of_main_model(const common_params & params) {
    llama_model_params model = common_model_params_to_llama(const_cast<common_params &>(params));
    model.no_alloc = true;
    model.load_mode = LLAMA_LOAD_MODE_NONE;
    llama_model * loaded = llama_model_load_from_file(params.model.path.c_str(), model);
    return loaded ? llama_init_from_model(loaded, common_context_params_to_llama(params)) : nullptr;
}

// The draft model, or the context of the model's own MTP layers (speculative.cpp:common_speculative_init_from_params).
static measured measure_draft(const common_params & params, uint32_t context_tokens) {
    common_params draft = common_base_params_to_speculative(params);
    auto model = common_model_params_to_llama(draft);
    auto context = common_context_params_to_llama(draft);
    if (drafts_by_mtp(params)) {
        context.ctx_type = LLAMA_CONTEXT_TYPE_MTP;
    }
    context.n_ctx = context_tokens;
    context.n_rs_seq = 0;
    if (params.speculative.has_dft()) {
        if (!drafts_by(params, COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE)) {
            context.ctx_other = context_of_main_model(params);
        }
        return measure(params.speculative.draft.mparams.path, model, context);
    }
    measured found = measure(params.model.path, model, context);
    for (auto & items : found.items) {
        items.model = 0;  // it computes with the model's own weights
    }
    return found;
}

static std::map<std::string, size_t> measure_projector(const common_params & params) {
    mtmd_context_params projector = mtmd_context_params_default();
    projector.use_gpu = params.mmproj_use_gpu;
    projector.print_timings = false;
    projector.flash_attn_type = params.flash_attn_type;
    projector.warmup = params.warmup;
    projector.image_min_tokens = params.image_min_tokens;
    projector.image_max_tokens = params.image_max_tokens;
    std::map<std::string, size_t> found;
    for (const auto & [device, bytes] : mtmd_get_memory_usage(params.mmproj.path.c_str(), projector).backend_mem_usage) {
        found[ggml_backend_dev_name(device)] += bytes;
    }
    if (found.empty()) {
        throw std::runtime_error("the projector's memory is not to be had");
    }
    return found;
}

static size_t free_bytes(ggml_backend_dev_t device) {
    size_t free = 0, total = 0;
    ggml_backend_dev_memory(device, &free, &total);
    return free;
}

// The accounting knows no adapters: they are loaded, onto devices that only reserve, beside a model that takes nothing.
static std::map<std::string, size_t> measure_adapters(const common_params & params, llama_model_params model,
                                                      const device_list & devices) {
    model.no_alloc = true;
    model.load_mode = LLAMA_LOAD_MODE_NONE;
    llama_model * loaded = llama_model_load_from_file(params.model.path.c_str(), model);
    std::vector<size_t> before;
    for (auto device : devices) {
        before.push_back(free_bytes(device));
    }
    for (const auto & adapter : params.lora_adapters) {
        if (!loaded || !llama_adapter_lora_init(loaded, adapter.path.c_str())) {
            throw std::runtime_error("failed to load adapter " + adapter.path);
        }
    }
    std::map<std::string, size_t> found;
    for (size_t i = 0; i < devices.size(); i++) {
        found[ggml_backend_dev_name(devices[i])] = before[i] - free_bytes(devices[i]);
    }
    return found;
}

// ---- Output ----

static std::string as_json(const measured & found) {
    std::string text = "{";
    for (size_t i = 0; i < found.items.size(); i++) {
        const char * name = i < found.devices.size() ? ggml_backend_dev_name(found.devices[i]) : "host";
        const auto & items = found.items[i];
        text += std::string(i ? ", \"" : "\"") + name + "\": [" + std::to_string(items.model) + ", "
              + std::to_string(items.context) + ", " + std::to_string(items.compute) + "]";
    }
    return text + "}";
}

static std::string as_json(const std::map<std::string, size_t> & bytes) {
    std::string text;
    for (const auto & [name, size] : bytes) {
        text += (text.empty() ? "\"" : ", \"") + name + "\": " + std::to_string(size);
    }
    return "{" + text + "}";
}

static std::string as_json(const loaded & found) {
    std::string text;
    for (const auto & [name, items] : found.devices) {
        text += (text.empty() ? "\"" : ", \"") + name + "\": [" + std::to_string(items[0]) + ", " + std::to_string(items[1])
              + ", " + std::to_string(items[2]) + "]";
    }
    return "{" + text + "}";
}

static std::string figures(common_params & params) {
    auto model = common_model_params_to_llama(params);
    auto context = common_context_params_to_llama(params);
    if (params.fit_params) {
        common_fit_params(params.model.path.c_str(), &model, &context, params.tensor_split,
                          params.tensor_buft_overrides.data(), params.fit_params_target.data(), params.fit_params_min_ctx,
                          nullptr, GGML_LOG_LEVEL_ERROR);
    }
    if (model.split_mode == LLAMA_SPLIT_MODE_TENSOR) {
        return "\"devices\": " + as_json(measure_loaded(params.model.path, model, context));
    }
    const measured main_model = measure(params.model.path, model, context);
    std::string text = "\"devices\": " + as_json(main_model);
    if (params.speculative.has_dft() || drafts_by_mtp(params)) {
        const uint32_t context_tokens = context.n_ctx ? context.n_ctx : main_model.trained_context;
        text += ", \"draft\": " + as_json(measure_draft(params, context_tokens));
    }
    if (!params.mmproj.path.empty()) {
        text += ", \"projector\": " + as_json(measure_projector(params));
    }
    if (!params.lora_adapters.empty()) {
        text += ", \"adapters\": " + as_json(measure_adapters(params, model, main_model.devices));
    }
    return text;
}

extern "C" int memory_figures(int count, char ** arguments) {
    common_params params;
    common_init();
    if (!common_params_parse(count, arguments, params, LLAMA_EXAMPLE_SERVER)) {
        return 1;
    }
    llama_backend_init();
    apply_server_defaults(params);
    apply_output_limits(params);
    std::string text;
    try {
        text = figures(params);
    } catch (const std::exception & error) {
        text = "\"error\": \"" + std::string(error.what()) + "\"";
    }
    common_log_flush(common_log_main());
    printf("{%s}\n", text.c_str());
    fflush(stdout);
    return 0;
}
