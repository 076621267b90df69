"""A model in llama.cpp through the low-level calls of its Python binding, which has to be installed."""

import ctypes
import os

import llama_cpp as llama
import numpy as np


class Model:
    """A model with one context: tokens go in behind those that are there, logits of the last one come out."""

    def __init__(self, path, context, threads=None, batch=512, mmap=True, repack=True, flash=True):
        # The library keeps a pointer to the callback: it must live as long as the model.
        self._log = llama.llama_log_callback(lambda level, text, data: None)
        llama.llama_log_set(self._log, ctypes.c_void_p(0))
        llama.llama_backend_init()
        parameters = llama.llama_model_default_params()
        parameters.use_mmap = mmap
        # Repacked weights are a second copy in memory of its own.
        parameters.use_extra_bufts = repack
        self.model = llama.llama_model_load_from_file(os.fsencode(path), parameters)
        if not self.model:
            raise SystemExit(f"{path}: llama.cpp can't load it")
        self.vocab = llama.llama_model_get_vocab(self.model)
        self.vocab_size = llama.llama_vocab_n_tokens(self.vocab)
        self.batch = batch
        options = llama.llama_context_default_params()
        options.n_ctx = context
        options.n_batch = options.n_ubatch = batch
        if not flash:
            options.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        options.n_threads = options.n_threads_batch = threads or len(os.sched_getaffinity(0))
        self.context = llama.llama_init_from_model(self.model, options)
        if not self.context:
            raise SystemExit(f"{path}: llama.cpp can't make a context of {context} tokens")

    def tokenize(self, text, special=False, begin=True):
        """Tokens of a text; `special`: control tokens count; `begin`: behind the one that the model has at the beginning."""
        raw = text.encode()
        ids = (llama.llama_token * (len(raw) + 16))()
        count = llama.llama_tokenize(self.vocab, raw, len(raw), ids, len(ids), begin, special)
        return list(ids[:count])

    def text(self, ids):
        raw = b""
        buffer = ctypes.create_string_buffer(512)
        for token in ids:
            length = llama.llama_token_to_piece(self.vocab, token, buffer, len(buffer), 0, True)
            raw += buffer.raw[:length]
        return raw.decode(errors="replace")

    def clear(self):
        llama.llama_memory_clear(llama.llama_get_memory(self.context), True)

    def append(self, ids):
        """Computes the tokens in batches; returns the logits behind the last one, f32 [vocabulary]."""
        for first in range(0, len(ids), self.batch):
            part = ids[first : first + self.batch]
            array = (llama.llama_token * len(part))(*part)
            if llama.llama_decode(self.context, llama.llama_batch_get_one(array, len(part))) != 0:
                raise SystemExit("llama_decode failed")
        logits = llama.llama_get_logits_ith(self.context, -1)
        return np.ctypeslib.as_array(logits, shape=(self.vocab_size,))

    def is_end(self, token):
        return llama.llama_vocab_is_eog(self.vocab, token)
