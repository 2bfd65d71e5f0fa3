"""langchain-ollama: chat, a stream, embeddings."""

import os

from langchain_ollama import ChatOllama, OllamaEmbeddings

address = {
    "base_url": os.environ["BASE_URL"],
    "client_kwargs": {"headers": {"Authorization": f"Bearer {os.environ['KEY']}"}},
}
chat = ChatOllama(model="demo", num_predict=4, **address)
answer = chat.invoke("Hello!")
assert answer.usage_metadata["output_tokens"] == 4, answer
assert len(list(chat.stream("Hello!"))) > 1
assert len(OllamaEmbeddings(model="embedder", **address).embed_documents(["one", "two"])) == 2
