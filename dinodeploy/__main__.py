"""`python -m dinodeploy`: the command line, where the script is not on the PATH."""

from dinodeploy.cli.app import main

if __name__ == "__main__":
    main()
