"""A model of Hugging Face's transformers, made from its configuration, trained as such models are.

A small vision transformer on scikit-learn's handwritten digits, with AdamW, warm-up and a cosine.

Run: pip install transformers
     evomal search examples/hugging_face.py:make_task --preset quick
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

import evomal


def make_model() -> nn.Module:
    """A classifier without pretrained weights; its logits are found by themselves."""
    config = ViTConfig(
        image_size=8,
        patch_size=2,
        num_channels=1,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
    )
    config.num_labels = 10
    return ViTForImageClassification(config)


def make_task() -> evomal.Task:
    """60:20:20 images; the model is called as ``model(pixel_values=…)``."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16 - 0.3
    x_train, x_rest, y_train, y_rest = train_test_split(
        images, digits.target, test_size=0.4, random_state=0, stratify=digits.target
    )
    x_val, x_test, y_val, y_test = train_test_split(
        x_rest, y_rest, test_size=0.5, random_state=0, stratify=y_rest
    )
    return evomal.Task(
        make_model,
        train=({"pixel_values": x_train}, y_train),
        validation=({"pixel_values": x_val}, y_val),
        test=({"pixel_values": x_test}, y_test),
        link="softmax",
        optimizer=evomal.AdamW(learning_rate=3e-3, weight_decay=0.05),
        schedule=evomal.Cosine(warmup=0.1),
        clip_norm=1.0,
        batch_size=64,
        rejection_steps=100,
        testing_steps=1000,
        name="hugging-face",
    )
