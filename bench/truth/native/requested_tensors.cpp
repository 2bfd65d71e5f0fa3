// Prints the tensors that llama.cpp's loader requests from a model file: a line each, with its name and dimensions.
//
// Replaces functions of the engine's loader (symbols of this library are found first), so that a file with metadata
// alone will do. b11549: llama-model-loader.h.
#include "llama-model-loader.h"
#include "llama.h"

#include <cstdio>
#include <regex>
#include <string>
#include <unistd.h>

static std::regex wanted_optional;

// The tensors of models that exist: what is required, and of the rest what the caller says.
ggml_tensor * llama_model_loader::create_tensor(const llama_hparams &, const buft_list_t *, const buft_list_t *, const buft_list_t *,
                                                const buft_list_t *, const LLM_TN_IMPL & tn, const std::initializer_list<int64_t> & ne, int flags) {
    static ggml_context * context = ggml_init({ (size_t) 256 << 20, nullptr, true });
    const std::string name = tn.str();
    const bool is_wanted = !(flags & TENSOR_NOT_REQUIRED) || std::regex_search(name, wanted_optional);
    for (const int64_t each : ne) {
        if (each <= 0) {
            return nullptr;
        }
    }
    if (!is_wanted) {
        return nullptr;
    }
    if (!(flags & TENSOR_DUPLICATED)) {
        printf("%s", name.c_str());
        for (const int64_t each : ne) {
            printf(" %lld", (long long) each);
        }
        printf("\n");
    }
    return ggml_new_tensor(context, GGML_TYPE_F32, (int) ne.size(), ne.begin());
}

void llama_model_loader::done_getting_tensors(bool) const {
    printf("done\n");
    fflush(stdout);
    _exit(0);
}

// Called as bench/truth/child.py does. Arguments: the library, the file, a regular expression for optional tensors.
extern "C" int memory_figures(int, char ** argv) {
    wanted_optional = std::regex(argv[2]);
    llama_backend_init();
    llama_model_params params = llama_model_default_params();
    params.n_gpu_layers = 0;
    llama_model_load_from_file(argv[1], params);
    return 1;
}
