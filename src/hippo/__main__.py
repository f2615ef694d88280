"""`python -m hippo`."""

from hippo.commands import main

if __name__ == "__main__":
    main()
