"""Learners of one kernel's time: features, regressors, their choice by unseen shapes, and their errors."""
