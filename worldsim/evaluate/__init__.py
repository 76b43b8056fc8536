"""What joins worlds, policies, planners and judges: references, closed-loop evaluation, films."""
