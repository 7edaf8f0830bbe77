"""Systems that learn a vector for every item from the order of purchases; these load torch.

One file a system has its network; what they share is how rows are cut (``rows``), the losses
(``loss``), one trial's training (``trainer``) and the trials on Ray Train (``system``).
"""
