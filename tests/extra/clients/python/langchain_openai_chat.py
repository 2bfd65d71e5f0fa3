"""langchain-openai: chat, a stream, and embeddings, which are sent as arrays of tokens unless that is switched off."""

import os

from langchain_openai import ChatOpenAI, OpenAIEmbeddings

address = {"base_url": os.environ["BASE_URL"] + "/v1", "api_key": os.environ["KEY"]}
chat = ChatOpenAI(model="demo", max_tokens=4, **address)
assert chat.invoke("Hello!").response_metadata["model_name"] == "demo"
assert len(list(chat.stream("Hello!"))) > 1
embeddings = OpenAIEmbeddings(model="embedder", check_embedding_ctx_length=False, **address)
assert len(embeddings.embed_documents(["one", "two"])) == 2
