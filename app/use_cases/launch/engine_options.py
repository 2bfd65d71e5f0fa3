"""The options of llama-server by what they do to its memory, with every spelling.

Source: llama.cpp b11549, common/arg.cpp (common_params_parser_init), and spellings of older builds. What the options of
`parsed_args` do is read there.
"""

from __future__ import annotations


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# They name a model to be downloaded, or bring one along.
NAMES_ANOTHER_MODEL = _names(
    """
    -m --model -mu --model-url -hf -hfr --hf-repo -hff --hf-file -hft --hf-token -dr --docker-repo -hfd -hfrd
    --hf-repo-draft --spec-draft-hf -mmu --mmproj-url
    """
)
PRESETS = _names(
    """
    --embd-gemma-default --fim-qwen-1.5b-default --fim-qwen-3b-default --fim-qwen-7b-default --fim-qwen-7b-spec
    --fim-qwen-14b-spec --fim-qwen-30b-default --gpt-oss-20b-default --gpt-oss-120b-default
    --vision-gemma-4b-default --vision-gemma-12b-default
    """
)
OTHER_MACHINES = "--rpc"

# They may change what is allocated, in a way that has not been measured.
UNMEASURED_SWITCHES = _names("--op-offload --no-op-offload -bs --backend-sampling")
UNMEASURED_VALUES = _names(
    """
    --override-kv --control-vector --control-vector-scaled --moe-cache-mib -mmdev --mmproj-device
    --image-min-tokens --mtmd-batch-max-tokens --kv-unified-per-slot -lzm --lazy-mode
    """
)

# Whether the CPU gets copies of weights in another order. The file's pages that they replace are not booked either way.
REPACKING = _names("--repack --no-repack -nr")

# What the server collects in RAM while it answers, up to a limit of its own.
GROWING = _names("-cram --cache-ram -ctxcp --ctx-checkpoints --swa-checkpoints")

# The others change nothing that is allocated.
IRRELEVANT_SWITCHES = _names(
    """
    --agent --cache-idle-slots --cache-prompt --check-tensors --cont-batching --context-shift --cors-credentials
    --escape --ignore-eos --jinja --log-disable --log-jsonl --log-prefix --log-timestamps
    --log-verbose
    --lora-init-without-apply --metrics --mlock --models-autoload --no-agent --no-cache-idle-slots
    --no-cache-prompt --no-cont-batching --no-context-shift --no-cors-credentials --no-direct-io --no-escape
    --no-host --no-jinja --no-log-jsonl --no-log-prefix --no-log-timestamps --no-models-autoload --no-perf
    --no-prefill-assistant --no-reasoning-preserve --no-skip-chat-parsing --no-slots
    --no-spec-draft-backend-sampling --no-ui --no-ui-mcp-proxy --no-warmup --no-webui --no-webui-mcp-proxy
    --offline --perf --prefill-assistant --props --reasoning-preserve --reuse-port --skip-chat-parsing --slots
    --spec-draft-backend-sampling --special --spm-infill --ui --ui-mcp-proxy --verbose --warmup --webui
    --webui-mcp-proxy -ag -cb -e -ndio -no-ag -nocb -sp -v
    """
)
IRRELEVANT_VALUES = _names(
    """
    --adaptive-decay --adaptive-target --alias --api-key --api-key-file --api-prefix --binary-file --cache-reuse
    --chat-template --chat-template-file --chat-template-kwargs --checkpoint-min-step --cors-headers
    --cors-methods --cors-origins --cpu-mask --cpu-mask-batch --cpu-mask-batch-draft --cpu-mask-draft
    --cpu-range --cpu-range-batch --cpu-range-draft --cpu-strict --cpu-strict-batch --cpu-strict-batch-draft
    --cpu-strict-draft --defrag-thold --draft-min --draft-n --draft-n-min --draft-p-min --draft-p-split
    --dry-allowed-length --dry-base --dry-multiplier --dry-penalty-last-n --dry-sequence-breaker --dynatemp-exp
    --dynatemp-range --embd-normalize --file --fit --fit-ctx --fit-target --frequency-penalty --grammar
    --grammar-file
    --host --json-schema --json-schema-file --keep --log-colors --log-file --log-prompts-dir
    --log-verbosity --logit-bias --lookup-cache-dynamic --lookup-cache-static --mcp-servers-config
    --mcp-servers-json --media-path --min-p --mirostat --mirostat-ent --mirostat-lr --models-dir --models-max
    --models-preset --n-predict --numa --path --poll --poll-batch --poll-batch-draft --poll-draft --pooling
    --port --predict --presence-penalty --prio --prio-batch --prio-batch-draft --prio-draft --prompt --reasoning
    --reasoning-budget --reasoning-budget-message --reasoning-effort --reasoning-format --repeat-last-n
    --repeat-penalty --reverse-prompt --rope-freq-base --rope-freq-scale --rope-scale --rope-scaling
    --sampler-seq --samplers --sampling-seq --seed --sleep-idle-seconds --slot-prompt-similarity
    --slot-save-path --spec-draft-cpu-mask --spec-draft-cpu-mask-batch --spec-draft-cpu-range
    --spec-draft-cpu-strict --spec-draft-cpu-strict-batch --spec-draft-n-min --spec-draft-p-min
    --spec-draft-p-split --spec-draft-poll --spec-draft-poll-batch --spec-draft-prio --spec-draft-prio-batch
    --spec-draft-sampling --spec-draft-threads --spec-draft-threads-batch --spec-ngram-map-k-min-hits
    --spec-ngram-map-k-size-m --spec-ngram-map-k-size-n --spec-ngram-map-k4v-min-hits
    --spec-ngram-map-k4v-size-m --spec-ngram-map-k4v-size-n --spec-ngram-min-hits --spec-ngram-mod-n-match
    --spec-ngram-mod-n-max --spec-ngram-mod-n-min --spec-ngram-simple-min-hits --spec-ngram-simple-size-m
    --spec-ngram-simple-size-n --spec-ngram-size-m --spec-ngram-size-n --spec-synth-len --spec-synth-rates
    --sse-ping-interval --ssl-cert-file --ssl-key-file --tags --temp --temperature --threads --threads-batch
    --threads-batch-draft --threads-draft --threads-http --timeout --tools --tools-runtime --top-k --top-n-sigma
    --top-nsigma --top-p --typical --typical-p --ui-config --ui-config-file --verbosity --video-ffmpeg-dir
    --video-fps --video-timestamp-interval --webui-config --webui-config-file --xtc-probability --xtc-threshold
    --yarn-attn-factor --yarn-beta-fast --yarn-beta-slow --yarn-ext-factor --yarn-orig-ctx -C -Cb -Cbd -Cd -Cr
    -Crb -Crd -a -bf -cms -dt -f -fit -fitc -fitt -j -jf -l -lcd -lcs -lv -n -p -r -rea -s -sps -t -tb -tbd -td
    -to
    """
)
