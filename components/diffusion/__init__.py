"""Diffusion models as policies: samplers that return distributions, adapters, guidance, rollouts.

The only room, with the miniature, that imports diffusers and peft. It reads a model folder in
diffusers' layout and reads and writes LoRA folders; it knows no stage.
"""

from components.contracts.device import find_device
from components.diffusion.conditioning import Conditioning
from components.diffusion.differentiable import (
    denoise_with_gradient,
    last_steps,
    pixels_with_gradient,
    predict_with_gradient,
    renoised_step_with_gradient,
)
from components.diffusion.flow_sampler import FlowSampler
from components.diffusion.loading import load_policy
from components.diffusion.noise import NoiseLevel, NoiseSchedule
from components.diffusion.policy import Adapter, Policy
from components.diffusion.rollout import Trajectories, rollout, sample_images
from components.diffusion.samplers import DDIMSampler, LatentGaussian, Sampler

__all__ = [
    "Adapter",
    "Conditioning",
    "DDIMSampler",
    "FlowSampler",
    "LatentGaussian",
    "NoiseLevel",
    "NoiseSchedule",
    "Policy",
    "Sampler",
    "Trajectories",
    "denoise_with_gradient",
    "find_device",
    "last_steps",
    "load_policy",
    "pixels_with_gradient",
    "predict_with_gradient",
    "renoised_step_with_gradient",
    "rollout",
    "sample_images",
]
