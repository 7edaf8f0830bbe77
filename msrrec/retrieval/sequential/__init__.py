"""Networks that read a history in its order, and SASRec as a retriever; imports torch."""
