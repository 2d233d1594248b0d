"""CLIP-L's text layout, narrow: names are the checkpoint's keys after `cond_stage_model.transformer.`.

Shapes: tokens (B, 77) int64 -> context (B, 77, CONTEXT), the last layer's output after final_layer_norm.
"""

import torch
import torch.nn.functional as F
from torch import nn

from .config import CONTEXT, TEXT_LAYERS, TOKENS, VOCABULARY


def quick_gelu(x):
    return x * torch.sigmoid(1.702 * x)


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x):
        def heads(rows):
            return rows.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        mixed = F.scaled_dot_product_attention(
            heads(self.q_proj(x)), heads(self.k_proj(x)), heads(self.v_proj(x)), is_causal=True
        )
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x):
        return self.fc2(quick_gelu(self.fc1(x)))


class Layer(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.self_attn = SelfAttention(width, heads)
        self.layer_norm1 = nn.LayerNorm(width)
        self.mlp = MLP(width)
        self.layer_norm2 = nn.LayerNorm(width)

    def forward(self, x):
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class Embeddings(nn.Module):
    def __init__(self, width: int, vocabulary: int):
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.position_embedding = nn.Embedding(TOKENS, width)
        nn.init.normal_(self.token_embedding.weight, std=0.5)
        nn.init.normal_(self.position_embedding.weight, std=0.02)

    def forward(self, tokens):
        return self.token_embedding(tokens) + self.position_embedding.weight[: tokens.shape[1]]


class TextModel(nn.Module):
    def __init__(self, width: int, layers: int, vocabulary: int):
        super().__init__()
        self.embeddings = Embeddings(width, vocabulary)
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList([Layer(width, width // 64) for _ in range(layers)])
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, tokens):
        x = self.embeddings(tokens)
        for layer in self.encoder.layers:
            x = layer(x)
        return self.final_layer_norm(x)


class TextEncoder(nn.Module):
    def __init__(self, width=CONTEXT, layers=TEXT_LAYERS, vocabulary=VOCABULARY):
        super().__init__()
        self.text_model = TextModel(width, layers, vocabulary)

    def forward(self, tokens):
        return self.text_model(tokens)
