# For fingers that type make; everything is in ./run, which needs no make.
.PHONY: install demo test check bench lock build clean help
help install demo test check bench lock build clean:
	@./run $@
