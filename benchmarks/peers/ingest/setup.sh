#!/bin/bash
. "$(dirname "$0")/../lib/common.sh"
export UV_LINK_MODE=copy  # nltk, which LlamaIndex brings, refuses files that are linked
mkvenv loop pymilvus==3.0.2 wordllama==0.4.0.post1 'setuptools<80' tqdm || exit 1
mkvenv llamaindex llama-index-core==0.14.25 llama-index-vector-stores-milvus==1.2.0 wordllama==0.4.0.post1
