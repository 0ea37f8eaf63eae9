"""Whether a defence is robust, or only hides its gradients."""
