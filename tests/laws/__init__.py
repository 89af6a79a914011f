"""Tests of components/diffusion."""
