"""Two checkpoints of a network of 19 million parameters that is really trained, one epoch apart, in the layout of safetensors.

With ReLU a fifth of the f32 values change, with tanh most do; each is written as f32 and as bf16.
"""

import json
import struct
import sys

import numpy as np
from sklearn.datasets import load_digits

BATCH = 128
WIDTHS = [64, 3072, 3072, 3072, 10]


class Network:
    def __init__(self, activation):
        self.relu = activation == "relu"
        self.rng = np.random.default_rng(7)
        images, digits = load_digits(return_X_y=True)
        self.images = (images / 16).astype(np.float32)
        self.wanted = np.eye(10, dtype=np.float32)[digits]
        pairs = list(zip(WIDTHS, WIDTHS[1:]))
        self.weights = [self.rng.standard_normal(p, dtype=np.float32) * np.float32(np.sqrt(2 / p[0])) for p in pairs]
        self.biases = [np.zeros(width, np.float32) for width in WIDTHS[1:]]
        self.parameters = self.weights + self.biases
        self.first = [np.zeros_like(values) for values in self.parameters]
        self.second = [np.zeros_like(values) for values in self.parameters]
        self.steps = 0

    def epoch(self, rate):
        """Adam over all images once."""
        order = self.rng.permutation(len(self.images))
        for start in range(0, len(self.images), BATCH):
            gradients = self.gradients(order[start : start + BATCH])
            self.steps += 1
            step = np.float32(rate * np.sqrt(1 - 0.999**self.steps) / (1 - 0.9**self.steps))
            for values, gradient, first, second in zip(self.parameters, gradients, self.first, self.second):
                first *= 0.9
                first += 0.1 * gradient
                second *= 0.999
                second += 0.001 * gradient * gradient
                values -= step * first / (np.sqrt(second) + 1e-8)

    def gradients(self, batch):
        layers = [self.images[batch]]
        for number, weights in enumerate(self.weights):
            sums = layers[-1] @ weights + self.biases[number]
            last = number == len(self.weights) - 1
            layers.append(sums if last else np.maximum(sums, 0) if self.relu else np.tanh(sums))
        odds = np.exp(layers[-1] - layers[-1].max(1, keepdims=True))
        delta = (odds / odds.sum(1, keepdims=True) - self.wanted[batch]) / len(batch)
        of_weights, of_biases = [None] * 4, [None] * 4
        for number in (3, 2, 1, 0):
            of_weights[number] = layers[number].T @ delta
            of_biases[number] = delta.sum(0)
            if number:
                slope = (layers[number] > 0) if self.relu else (1 - layers[number] * layers[number])
                delta = (delta @ self.weights[number].T) * slope
        return of_weights + of_biases

    def save(self, path, name, convert):
        header, offset, bodies = {}, 0, []
        for number in range(4):
            for kind, values in (("weight", self.weights[number]), ("bias", self.biases[number])):
                body = convert(values)
                shape = list(values.shape)
                header[f"layers.{number}.{kind}"] = {"dtype": name, "shape": shape, "data_offsets": [offset, offset + len(body)]}
                offset += len(body)
                bodies.append(body)
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(path, "wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            out.writelines(bodies)


def bf16(values):
    """Rounded to the nearest, ties to even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).tobytes()


def main(folder):
    for activation, name in (("relu", "ckpt"), ("tanh", "dense")):
        network = Network(activation)
        for number in range(8):
            network.epoch(1e-3 if number < 5 else 1e-4)
        for version in ("v0", "v1"):
            network.save(f"{folder}/{name}f32.{version}", "F32", lambda values: values.tobytes())
            network.save(f"{folder}/{name}bf16.{version}", "BF16", bf16)
            network.epoch(1e-5)


main(sys.argv[1])
